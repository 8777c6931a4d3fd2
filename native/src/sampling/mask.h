#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sampling/blocks.h"

namespace quern {

// The ids that one draw may have: a bit for each, in 32-bit words, the lowest id in the lowest bit.
class Mask {
public:
    // `bits`: the words' bytes, little-endian; those for ids beyond `ids` don't matter. Throws
    // std::invalid_argument with a sentence if there are fewer than `ids` bits.
    Mask(std::span<const uint8_t> bits, size_t ids);

    bool operator[](int32_t id) const {
        return words_[static_cast<size_t>(id) / word_bits] >> (static_cast<size_t>(id) % word_bits) & 1U;
    }

    // The words of one block of logits.
    BlockWords of_block(size_t index) const {
        return BlockWords(words_.data() + index * block_words, block_words);
    }

private:
    std::vector<uint32_t> words_;  // whole blocks
};

}  // namespace quern
