#include "weights/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/dequantize.h"
#include "formats/half.h"

// The file's block layouts are those of ggml-common.h; dequantize.cpp has their formulas.
namespace quern {
namespace {

uint16_t half_at(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return half;
}

void put_half(uint8_t* p, uint16_t half) { std::memcpy(p, &half, sizeof half); }

// Puts one output's 32 codes into a block (see block_code_bytes).
void put_codes(WeightFormat format, const uint8_t* codes, size_t output, uint8_t* block) {
    if (code_bits(format) == 8) {
        for (size_t i = 0; i < 8; ++i) std::memcpy(block + (i * panel_rows + output) * 4, codes + 4 * i, 4);
        return;
    }
    uint8_t packed[16];
    for (size_t i = 0; i < 16; ++i) packed[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
    for (size_t i = 0; i < 4; ++i) std::memcpy(block + (i * panel_rows + output) * 4, packed + 4 * i, 4);
    if (code_bits(format) == 5) {
        for (size_t c = 0; c < 32; ++c) {
            block[256 + output * 4 + c % 4] |= static_cast<uint8_t>((codes[c] >> 4 & 1) << (c / 4));
        }
    } else if (code_bits(format) == 6) {
        for (size_t c = 0; c < 32; ++c) {
            const size_t i = c / 4;
            block[256 + i / 4 * 64 + output * 4 + c % 4] |= static_cast<uint8_t>((codes[c] >> 4 & 3) << (2 * (i % 4)));
        }
    }
}

uint8_t code_at(WeightFormat format, const uint8_t* block, size_t output, size_t column) {
    const size_t i = column / 4, lane = output * 4 + column % 4;
    if (code_bits(format) == 8) return block[i * 64 + lane];
    const uint8_t byte = block[i % 4 * 64 + lane];
    uint8_t code = i < 4 ? byte & 15 : byte >> 4;
    if (code_bits(format) == 5) code |= static_cast<uint8_t>((block[256 + lane] >> i & 1) << 4);
    if (code_bits(format) == 6) code |= static_cast<uint8_t>((block[256 + i / 4 * 64 + lane] >> (2 * (i % 4)) & 3) << 4);
    return code;
}

// One output's 256 values on their way.
struct Superblock {
    uint8_t codes[superblock_columns];
    uint8_t scales[16];
    uint8_t minimums[8];
    uint16_t d;
    uint16_t dmin;
};

void read_scales_and_minimums(const uint8_t* packed, Superblock& out) {
    for (size_t j = 0; j < 4; ++j) {
        out.scales[j] = packed[j] & 63;
        out.minimums[j] = packed[j + 4] & 63;
        out.scales[j + 4] = static_cast<uint8_t>((packed[j + 8] & 15) | (packed[j] >> 6) << 4);
        out.minimums[j + 4] = static_cast<uint8_t>((packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4);
    }
}

// The low four bits of Q4_K's and Q5_K's codes, two blocks to 32 bytes.
void read_nibbles(const uint8_t* p, Superblock& out) {
    for (size_t b = 0; b < 8; ++b) {
        for (size_t i = 0; i < 32; ++i) {
            out.codes[b * 32 + i] = static_cast<uint8_t>(p[b / 2 * 32 + i] >> (b % 2 * 4) & 15);
        }
    }
}

void read_q4_k(const uint8_t* p, Superblock& out) {
    out.d = half_at(p);
    out.dmin = half_at(p + 2);
    read_scales_and_minimums(p + 4, out);
    read_nibbles(p + 16, out);
}

// Q4_K's layout with the codes' fifth bits, one byte to eight blocks, before the nibbles.
void read_q5_k(const uint8_t* p, Superblock& out) {
    out.d = half_at(p);
    out.dmin = half_at(p + 2);
    read_scales_and_minimums(p + 4, out);
    read_nibbles(p + 48, out);
    for (size_t c = 0; c < superblock_columns; ++c) {
        out.codes[c] |= static_cast<uint8_t>((p[16 + c % 32] >> (c / 32) & 1) << 4);
    }
}

void read_q6_k(const uint8_t* p, Superblock& out) {
    for (size_t b = 0; b < 8; ++b) {
        const uint8_t* low = p + b / 4 * 64 + b % 2 * 32;
        const uint8_t* high = p + 128 + b / 4 * 32;
        for (size_t i = 0; i < 32; ++i) {
            const int code = (low[i] >> (b / 2 % 2 * 4) & 15) | (high[i] >> (b % 4 * 2) & 3) << 4;
            out.codes[b * 32 + i] = static_cast<uint8_t>(code);
        }
    }
    std::memcpy(out.scales, p + 192, 16);
    out.d = half_at(p + 208);
}

void put_superblock(WeightFormat format, const Superblock& from, size_t output, uint8_t* scales, uint8_t* codes) {
    put_half(scales + 2 * output, from.d);
    if (format == WeightFormat::k6) {
        for (size_t j = 0; j < 16; ++j) scales[32 + j / 2 * 32 + output * 2 + j % 2] = from.scales[j];
    } else {
        put_half(scales + 32 + 2 * output, from.dmin);
        for (size_t j = 0; j < 8; ++j) {
            scales[64 + j * 16 + output] = from.scales[j];
            scales[192 + j / 2 * 32 + output * 2 + j % 2] = from.minimums[j];
        }
    }
    for (size_t b = 0; b < superblock_blocks; ++b) {
        put_codes(format, from.codes + b * block_columns, output, codes + b * block_code_bytes(format));
    }
}

// One output's 32 values on their way.
struct Block {
    uint8_t codes[block_columns];
    uint16_t scale;
    uint16_t minimum;
};

void read_nibbles(const uint8_t* p, Block& out) {
    for (size_t i = 0; i < 16; ++i) {
        out.codes[i] = p[i] & 15;
        out.codes[i + 16] = p[i] >> 4;
    }
}

void read_fifth_bits(const uint8_t* p, Block& out) {
    for (size_t i = 0; i < 32; ++i) out.codes[i] |= static_cast<uint8_t>((p[i / 8] >> (i % 8) & 1) << 4);
}

void quantise_to_8_bits(const float* x, Block& out) {
    float largest = 0.0F;
    for (size_t i = 0; i < block_columns; ++i) largest = std::max(largest, std::fabs(x[i]));
    out.scale = float_to_half(largest / 127.0F);
    const float scale = half_to_float(out.scale);
    for (size_t i = 0; i < block_columns; ++i) {
        const float code = scale > 0.0F ? std::nearbyint(x[i] / scale) : 0.0F;
        out.codes[i] = static_cast<uint8_t>(std::clamp(code, -127.0F, 127.0F) + 128.0F);
    }
}

void quantise_to_4_bits(const float* x, Block& out) {
    const auto [lowest, highest] = std::minmax_element(x, x + block_columns);
    out.minimum = float_to_half(*lowest);
    const float minimum = half_to_float(out.minimum);
    out.scale = float_to_half((*highest - minimum) / 15.0F);
    const float scale = half_to_float(out.scale);
    for (size_t i = 0; i < block_columns; ++i) {
        const float code = scale > 0.0F ? std::nearbyint((x[i] - minimum) / scale) : 0.0F;
        out.codes[i] = static_cast<uint8_t>(std::clamp(code, 0.0F, 15.0F));
    }
}

// Floats to codes; false where one of them is infinite or not a number.
bool quantise_block(TensorType type, WeightFormat format, const uint8_t* p, Block& out) {
    float values[block_columns];
    dequantize(type, reinterpret_cast<const std::byte*>(p), block_columns, values);
    if (!std::all_of(values, values + block_columns, [](float x) { return std::isfinite(x); })) return false;
    format == WeightFormat::s8 ? quantise_to_8_bits(values, out) : quantise_to_4_bits(values, out);
    return true;
}

bool read_block(TensorType type, WeightFormat format, const uint8_t* p, Block& out) {
    switch (type) {
        case TensorType::Q4_0:
        case TensorType::IQ4_NL:
            out.scale = half_at(p);
            read_nibbles(p + 2, out);
            return true;
        case TensorType::Q4_1:
            out.scale = half_at(p);
            out.minimum = half_at(p + 2);
            read_nibbles(p + 4, out);
            return true;
        case TensorType::Q5_0:
            out.scale = half_at(p);
            read_nibbles(p + 6, out);
            read_fifth_bits(p + 2, out);
            return true;
        case TensorType::Q5_1:
            out.scale = half_at(p);
            out.minimum = half_at(p + 2);
            read_nibbles(p + 8, out);
            read_fifth_bits(p + 4, out);
            return true;
        case TensorType::Q8_0:
            out.scale = half_at(p);
            for (size_t i = 0; i < block_columns; ++i) out.codes[i] = static_cast<uint8_t>(p[2 + i] + 128);
            return true;
        default: return quantise_block(type, format, p, out);
    }
}

void put_block(WeightFormat format, const Block& from, size_t output, uint8_t* scales, uint8_t* codes) {
    put_half(scales + 2 * output, from.scale);
    if (scale_bytes(format) == 64) put_half(scales + 32 + 2 * output, from.minimum);
    put_codes(format, from.codes, output, codes);
}

void unpack_superblock_scales(WeightFormat format, const uint8_t* scales, size_t output, size_t block, float* scale,
                              float* offset) {
    const float d = half_to_float(half_at(scales + 2 * output));
    if (format == WeightFormat::k6) {
        for (size_t half = 0; half < 2; ++half) {
            scale[half] = d * static_cast<int8_t>(scales[32 + block * 32 + output * 2 + half]);
            offset[half] = -32.0F * scale[half];
        }
        return;
    }
    const float dmin = half_to_float(half_at(scales + 32 + 2 * output));
    scale[0] = scale[1] = d * scales[64 + block * 16 + output];
    offset[0] = offset[1] = -dmin * scales[192 + block / 2 * 32 + output * 2 + block % 2];
}

void unpack_block_scales(WeightFormat format, const uint8_t* scales, size_t output, float* scale, float* offset) {
    scale[0] = scale[1] = half_to_float(half_at(scales + 2 * output));
    const float minimum = scale_bytes(format) == 64 ? half_to_float(half_at(scales + 32 + 2 * output)) : 0.0F;
    offset[0] = offset[1] = format == WeightFormat::s8   ? -128.0F * scale[0]
                            : format == WeightFormat::s5 ? -16.0F * scale[0]
                            : format == WeightFormat::s4 ? -8.0F * scale[0]
                                                         : minimum;
}

}  // namespace

WeightFormat packed_format(TensorType type, FloatWeights floats) {
    switch (type) {
        case TensorType::Q4_K: return WeightFormat::k4;
        case TensorType::Q5_K: return WeightFormat::k5;
        case TensorType::Q6_K: return WeightFormat::k6;
        case TensorType::Q4_0: return WeightFormat::s4;
        case TensorType::Q5_0: return WeightFormat::s5;
        case TensorType::Q8_0: return WeightFormat::s8;
        case TensorType::IQ4_NL: return WeightFormat::n4;
        case TensorType::Q4_1: return WeightFormat::a4;
        case TensorType::Q5_1: return WeightFormat::a5;
        default: return floats == FloatWeights::q8 ? WeightFormat::s8 : WeightFormat::a4;
    }
}

bool pack_panel(TensorType type, WeightFormat format, const uint8_t* rows_data, size_t row_bytes, size_t rows,
                size_t columns, uint8_t* panel) {
    uint8_t* codes = panel + panel_scale_bytes(format, columns);
    const size_t elements = scaled_by_superblock(format) ? superblock_columns : block_columns;
    const size_t bytes = row_bytes / (columns / elements);
    bool sound = true;
    for (size_t output = 0; output < rows; ++output) {
        for (size_t unit = 0; unit < columns / elements; ++unit) {
            const uint8_t* from = rows_data + output * row_bytes + unit * bytes;
            uint8_t* scales_at = panel + unit * scale_bytes(format);
            uint8_t* codes_at = codes + unit * (elements / block_columns) * block_code_bytes(format);
            if (scaled_by_superblock(format)) {
                Superblock superblock;
                if (type == TensorType::Q4_K) read_q4_k(from, superblock);
                if (type == TensorType::Q5_K) read_q5_k(from, superblock);
                if (type == TensorType::Q6_K) read_q6_k(from, superblock);
                put_superblock(format, superblock, output, scales_at, codes_at);
            } else {
                Block block;
                sound = read_block(type, format, from, block) && sound;
                put_block(format, block, output, scales_at, codes_at);
            }
        }
    }
    return sound;
}

void unpack_row(const WeightView& weights, size_t row, float* out) {
    constexpr float iq4nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const WeightFormat format = weights.format;
    const uint8_t* panel = weights.data + row / panel_rows * panel_bytes(format, weights.columns);
    const uint8_t* codes = panel + panel_scale_bytes(format, weights.columns);
    const size_t output = row % panel_rows;
    for (size_t b = 0; b < weights.columns / block_columns; ++b) {
        float scale[2], offset[2];
        if (scaled_by_superblock(format)) {
            const uint8_t* scales = panel + b / superblock_blocks * scale_bytes(format);
            unpack_superblock_scales(format, scales, output, b % superblock_blocks, scale, offset);
        } else {
            unpack_block_scales(format, panel + b * scale_bytes(format), output, scale, offset);
        }
        for (size_t i = 0; i < block_columns; ++i) {
            const uint8_t code = code_at(format, codes + b * block_code_bytes(format), output, i);
            const float value = format == WeightFormat::n4 ? iq4nl[code] : static_cast<float>(code);
            out[b * block_columns + i] = scale[i / 16] * value + offset[i / 16];
        }
    }
}

}  // namespace quern
