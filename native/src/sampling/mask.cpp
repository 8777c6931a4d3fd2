#include "sampling/mask.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace quern {

static_assert(std::endian::native == std::endian::little);

Mask::Mask(std::span<const uint8_t> bits, size_t ids)
    : words_((ids + block_size - 1) / block_size * block_words) {
    if (bits.size() * 8 < ids) {
        throw std::invalid_argument("The mask has " + std::to_string(bits.size() * 8) +
                                    " bits; the sampler's vocabulary has " + std::to_string(ids) +
                                    " ids, and it needs one for each.");
    }
    std::memcpy(words_.data(), bits.data(), std::min(bits.size(), words_.size() * sizeof(uint32_t)));
}

}  // namespace quern
