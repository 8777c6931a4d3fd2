#include "sampling/blocks.h"

#include <bit>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define QUERN_FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define QUERN_FOR_EACH_CPU
#endif

namespace quern {

namespace {

// exp(x) for x <= 0: 2^n * exp(r) with n the nearest integer to x / ln 2, so that |r| <= ln(2) / 2, where Taylor's
// polynomial of degree 7 is off by less than r^8 / 8! = 6e-9, below a float's own rounding.
[[gnu::always_inline]] inline float exp_of_nonpositive(float x) {
    constexpr float lowest = -87.0F;                // below it 2^n leaves the range of normal floats
    constexpr float to_nearest = 0x1.8p23F;         // adding it leaves the nearest integer in the lowest bits
    constexpr float log2_e = 1.44269504F;
    constexpr float ln2_high = 0x1.62e4p-1F;        // 15 bits, so that its product with n is exact
    constexpr float ln2_low = 0x1.7f7d1cp-20F;      // the rest of ln 2
    const float inside = x < lowest ? lowest : x;
    const float shifted = inside * log2_e + to_nearest;
    const float n = shifted - to_nearest;
    const float r = (inside - n * ln2_high) - n * ln2_low;
    float sum = 1.0F / 5040;
    sum = sum * r + 1.0F / 720;
    sum = sum * r + 1.0F / 120;
    sum = sum * r + 1.0F / 24;
    sum = sum * r + 1.0F / 6;
    sum = sum * r + 0.5F;
    sum = sum * r + 1.0F;
    sum = sum * r + 1.0F;
    const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000U);
    return x < lowest ? 0.0F : sum * power;
}

template <size_t Half, typename Combine>
[[gnu::always_inline]] inline float fold(float* values, Combine combine) {
    for (size_t i = 0; i < Half; ++i) values[i] = combine(values[i], values[i + Half]);
    if constexpr (Half > 1) return fold<Half / 2>(values, combine);
    return values[0];
}

}  // namespace

QUERN_FOR_EACH_CPU void load(const float* logits, Block& block) {
    for (size_t i = 0; i < block_size; ++i) block.values[i] = comparable(logits[i]);
}

QUERN_FOR_EACH_CPU float highest_of(const Block& block) {
    Block folded = block;
    return fold<block_size / 2>(folded.values.data(), [](float a, float b) { return a < b ? b : a; });
}

QUERN_FOR_EACH_CPU float sum_of(const Block& block) {
    Block folded = block;
    return fold<block_size / 2>(folded.values.data(), [](float a, float b) { return a + b; });
}

QUERN_FOR_EACH_CPU void to_weights(Block& block, float highest, float scale) {
    for (size_t i = 0; i < block_size; ++i) block.values[i] = exp_of_nonpositive((block.values[i] - highest) * scale);
}

}  // namespace quern
