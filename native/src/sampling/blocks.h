// Arithmetic over blocks of logits: the only loops that see the whole vocabulary.
//
// A block has a fixed length, so every loop has a constant count and no remainder, and the compiler
// vectorises it; sums and maxima go by halves for the same reason. Each function is compiled for AVX-512,
// AVX2 and plain x86-64, and the loader picks one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace quern {

inline constexpr size_t block_size = 256;

// 256 consecutive logits, or 256 weights; aligned for the widest vectors.
struct alignas(64) Block {
    std::array<float, block_size> values;
};

inline constexpr size_t word_bits = 32;
inline constexpr size_t block_words = block_size / word_bits;

// A bit for each value of a block, the first in the lowest bit of the first word.
using BlockWords = std::span<const uint32_t, block_words>;

inline constexpr float ruled_out = -std::numeric_limits<float>::infinity();

// A logit that can be compared and subtracted: NaN becomes -inf, +inf the largest float.
inline float comparable(float logit) {
    constexpr float largest = std::numeric_limits<float>::max();
    const float capped = logit > largest ? largest : logit;
    return capped == capped ? capped : ruled_out;
}

// Copies block_size logits, each made comparable.
void load(const float* logits, Block& block);

// Rules out every value whose bit is 0.
void keep(BlockWords allowed, Block& block);

// The largest value.
float highest_of(const Block& block);

// The sum of all values, added pairwise.
float sum_of(const Block& block);

// Turns logits into exp((logit - highest) * scale), for logits <= highest and scale > 0. The relative error
// is below 2e-7; results below e^-87.7 become 0, as that of -inf does.
void to_weights(Block& block, float highest, float scale);

}  // namespace quern
