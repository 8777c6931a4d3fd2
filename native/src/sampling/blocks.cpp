#include "sampling/blocks.h"

#include <algorithm>

#include "sampling/exponential.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define QUERN_FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define QUERN_FOR_EACH_CPU
#endif

namespace quern {

namespace {

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

QUERN_FOR_EACH_CPU void keep(BlockWords allowed, Block& block) {
    for (size_t i = 0; i < block_words; ++i) {
        const uint32_t word = allowed[i];
        float* values = block.values.data() + i * word_bits;
        for (uint32_t bit = 0; bit < word_bits; ++bit) {
            values[bit] = (word >> bit & 1U) != 0 ? values[bit] : ruled_out;
        }
    }
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
    for (float& value : block.values) value = std::max((value - highest) * scale, least_exponent);
    for (float& value : block.values) value = exp_of(value);
}

}  // namespace quern
