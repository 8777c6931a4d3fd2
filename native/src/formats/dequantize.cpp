#include "formats/dequantize.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "formats/half.h"

namespace quern {
namespace {

// Formats and formulas: the block_* structs of ggml-common.h and dequantize_row_* of ggml-quants.c. All
// integers are little-endian. The order of the float operations is ggml's too: it decides the last bit.

uint8_t byte_at(const std::byte* bytes, size_t index) {
    return std::to_integer<uint8_t>(bytes[index]);
}

int low_nibble(const std::byte* bytes, size_t index) {
    return byte_at(bytes, index) & 0xf;
}

int high_nibble(const std::byte* bytes, size_t index) {
    return byte_at(bytes, index) >> 4;
}

template <typename T>
T load(const std::byte* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

float load_half(const std::byte* bytes) {
    return half_to_float(load<uint16_t>(bytes));
}

void from_f32(const std::byte* block, float* out) {
    *out = load<float>(block);
}

void from_f16(const std::byte* block, float* out) {
    *out = load_half(block);
}

void from_bf16(const std::byte* block, float* out) {
    *out = bfloat16_to_float(load<uint16_t>(block));
}

// scale; 32 x 4 bits, less 8. Element j shares a byte with element j + 16, here and in the next formats.
void from_q4_0(const std::byte* block, float* out) {
    const float scale = load_half(block);
    const std::byte* quants = block + 2;
    for (size_t j = 0; j < 16; ++j) {
        out[j] = static_cast<float>(low_nibble(quants, j) - 8) * scale;
        out[j + 16] = static_cast<float>(high_nibble(quants, j) - 8) * scale;
    }
}

// scale, minimum; 32 x 4 bits.
void from_q4_1(const std::byte* block, float* out) {
    const float scale = load_half(block);
    const float minimum = load_half(block + 2);
    const std::byte* quants = block + 4;
    for (size_t j = 0; j < 16; ++j) {
        out[j] = static_cast<float>(low_nibble(quants, j)) * scale + minimum;
        out[j + 16] = static_cast<float>(high_nibble(quants, j)) * scale + minimum;
    }
}

// scale; 32 fifth bits; 32 x 4 bits; less 16.
void from_q5_0(const std::byte* block, float* out) {
    const float scale = load_half(block);
    const uint32_t fifth_bits = load<uint32_t>(block + 2);
    const std::byte* quants = block + 6;
    for (size_t j = 0; j < 16; ++j) {
        const int first = low_nibble(quants, j) | static_cast<int>((fifth_bits >> j & 1) << 4);
        const int second = high_nibble(quants, j) | static_cast<int>((fifth_bits >> (j + 16) & 1) << 4);
        out[j] = static_cast<float>(first - 16) * scale;
        out[j + 16] = static_cast<float>(second - 16) * scale;
    }
}

// scale, minimum; 32 fifth bits; 32 x 4 bits.
void from_q5_1(const std::byte* block, float* out) {
    const float scale = load_half(block);
    const float minimum = load_half(block + 2);
    const uint32_t fifth_bits = load<uint32_t>(block + 4);
    const std::byte* quants = block + 8;
    for (size_t j = 0; j < 16; ++j) {
        const int first = low_nibble(quants, j) | static_cast<int>((fifth_bits >> j & 1) << 4);
        const int second = high_nibble(quants, j) | static_cast<int>((fifth_bits >> (j + 16) & 1) << 4);
        out[j] = static_cast<float>(first) * scale + minimum;
        out[j + 16] = static_cast<float>(second) * scale + minimum;
    }
}

// scale; 32 x int8.
void from_q8_0(const std::byte* block, float* out) {
    const float scale = load_half(block);
    for (size_t j = 0; j < 32; ++j) {
        out[j] = static_cast<float>(static_cast<int8_t>(byte_at(block + 2, j))) * scale;
    }
}

// scale; 32 x 4 bits, indices into a table.
void from_iq4_nl(const std::byte* block, float* out) {
    constexpr std::array<float, 16> values{-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};
    const float scale = load_half(block);
    const std::byte* quants = block + 2;
    for (size_t j = 0; j < 16; ++j) {
        out[j] = scale * values[static_cast<size_t>(low_nibble(quants, j))];
        out[j + 16] = scale * values[static_cast<size_t>(high_nibble(quants, j))];
    }
}

struct ScaleAndMinimum {
    float scale;
    float minimum;
};

// The group-th of the 8 pairs of 6-bit scales and minimums in Q4_K's and Q5_K's 12 bytes: get_scale_min_k4.
ScaleAndMinimum k_scale(const std::byte* block, size_t group) {
    const std::byte* packed = block + 4;
    int scale;
    int minimum;
    if (group < 4) {
        scale = byte_at(packed, group) & 63;
        minimum = byte_at(packed, group + 4) & 63;
    } else {
        scale = low_nibble(packed, group + 4) | byte_at(packed, group - 4) >> 6 << 4;
        minimum = high_nibble(packed, group + 4) | byte_at(packed, group) >> 6 << 4;
    }
    return {load_half(block) * static_cast<float>(scale), load_half(block + 2) * static_cast<float>(minimum)};
}

// Super-scales of scales and minimums; 8 x (scale, minimum); 256 x 4 bits: 32 bytes hold two groups of 32.
void from_q4_k(const std::byte* block, float* out) {
    const std::byte* quants = block + 16;
    for (size_t pair = 0; pair < 4; ++pair, quants += 32, out += 64) {
        const auto first = k_scale(block, 2 * pair);
        const auto second = k_scale(block, 2 * pair + 1);
        for (size_t j = 0; j < 32; ++j) {
            out[j] = first.scale * static_cast<float>(low_nibble(quants, j)) - first.minimum;
            out[j + 32] = second.scale * static_cast<float>(high_nibble(quants, j)) - second.minimum;
        }
    }
}

// As Q4_K, with 32 bytes of fifth bits between: bit g of byte j belongs to element j of group g.
void from_q5_k(const std::byte* block, float* out) {
    const std::byte* fifth_bits = block + 16;
    const std::byte* quants = block + 48;
    for (size_t pair = 0; pair < 4; ++pair, quants += 32, out += 64) {
        const auto first = k_scale(block, 2 * pair);
        const auto second = k_scale(block, 2 * pair + 1);
        for (size_t j = 0; j < 32; ++j) {
            const int bits = byte_at(fifth_bits, j) >> (2 * pair);
            const int first_quant = low_nibble(quants, j) | (bits & 1) << 4;
            const int second_quant = high_nibble(quants, j) | (bits & 2) << 3;
            out[j] = first.scale * static_cast<float>(first_quant) - first.minimum;
            out[j + 32] = second.scale * static_cast<float>(second_quant) - second.minimum;
        }
    }
}

// 256 x lower 4 bits, 256 x upper 2 bits, 16 x int8 scale, super-scale; less 32. Each half of the block: 64
// bytes of lower bits, 32 of upper bits, 8 scales, four groups of 32 elements.
void from_q6_k(const std::byte* block, float* out) {
    const float super_scale = load_half(block + 208);
    for (size_t half = 0; half < 2; ++half) {
        const std::byte* lower = block + 64 * half;
        const std::byte* upper = block + 128 + 32 * half;
        const std::byte* scales = block + 192 + 8 * half;
        for (size_t group = 0; group < 4; ++group, out += 32) {
            for (size_t j = 0; j < 32; ++j) {
                const int low_bits = byte_at(lower, j + 32 * (group % 2)) >> (group < 2 ? 0 : 4) & 0xf;
                const int high_bits = byte_at(upper, j) >> (2 * group) & 3;
                const auto scale =
                    static_cast<float>(static_cast<int8_t>(byte_at(scales, 2 * group + j / 16)));
                out[j] = super_scale * scale * static_cast<float>((low_bits | high_bits << 4) - 32);
            }
        }
    }
}

template <void (*from_block)(const std::byte*, float*)>
void each_block(TensorType type, const std::byte* blocks, size_t elements, float* out) {
    const auto& block = traits(type);
    for (size_t done = 0; done < elements; done += block.block_elements, blocks += block.block_bytes) {
        from_block(blocks, out + done);
    }
}

}  // namespace

void dequantize(TensorType type, const std::byte* blocks, size_t elements, float* out) {
    assert(elements % block_elements(type) == 0);
    switch (type) {
        case TensorType::F32: return each_block<from_f32>(type, blocks, elements, out);
        case TensorType::F16: return each_block<from_f16>(type, blocks, elements, out);
        case TensorType::BF16: return each_block<from_bf16>(type, blocks, elements, out);
        case TensorType::Q4_0: return each_block<from_q4_0>(type, blocks, elements, out);
        case TensorType::Q4_1: return each_block<from_q4_1>(type, blocks, elements, out);
        case TensorType::Q5_0: return each_block<from_q5_0>(type, blocks, elements, out);
        case TensorType::Q5_1: return each_block<from_q5_1>(type, blocks, elements, out);
        case TensorType::Q8_0: return each_block<from_q8_0>(type, blocks, elements, out);
        case TensorType::Q4_K: return each_block<from_q4_k>(type, blocks, elements, out);
        case TensorType::Q5_K: return each_block<from_q5_k>(type, blocks, elements, out);
        case TensorType::Q6_K: return each_block<from_q6_k>(type, blocks, elements, out);
        case TensorType::IQ4_NL: return each_block<from_iq4_nl>(type, blocks, elements, out);
    }
}

}  // namespace quern
