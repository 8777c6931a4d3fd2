#pragma once

#include <cstddef>
#include <cstdint>

// How weights and activations lie in memory. Everything here is the same for every instruction set.
namespace quern {

inline constexpr size_t panel_rows = 16;      // outputs of a weight matrix that are computed together
inline constexpr size_t block_columns = 32;   // inputs that share a scale
inline constexpr size_t superblock_columns = 256;
inline constexpr size_t superblock_blocks = superblock_columns / block_columns;
inline constexpr size_t tile_rows = 8;        // activation rows that meet an unpacked panel together

// The internal weight formats. Each keeps the exact codes and scales of the file formats it is made from.
enum class WeightFormat : uint8_t {
    k4,  // 4 bits; 6-bit scale and minimum per 32, two halves per 256   (Q4_K)
    k5,  // 5 bits, likewise                                             (Q5_K)
    k6,  // 6 bits minus 32; 8-bit scale per 16, one half per 256        (Q6_K)
    s4,  // 4 bits minus 8; one half per 32                              (Q4_0)
    s5,  // 5 bits minus 16, likewise                                    (Q5_0)
    s8,  // 8 bits minus 128, likewise                                   (Q8_0, and floats quantised at load)
    n4,  // 4 bits through IQ4_NL's table; one half per 32               (IQ4_NL)
    a4,  // 4 bits; scale and minimum as halves per 32                   (Q4_1, and floats if asked for)
    a5,  // 5 bits, likewise                                             (Q5_1)
};

constexpr size_t code_bits(WeightFormat format) {
    switch (format) {
        case WeightFormat::k5:
        case WeightFormat::s5:
        case WeightFormat::a5: return 5;
        case WeightFormat::k6: return 6;
        case WeightFormat::s8: return 8;
        default: return 4;
    }
}

// Bytes of the codes of one block: 16 outputs by 32 inputs. Byte (i * 16 + o) * 4 + j of the unpacked block is the
// code of output o and input 4 i + j. Packed: bytes 0 to 255 hold the low four bits of i = 0..3 in their low nibbles
// and of i = 4..7 in their high nibbles. A fifth bit follows as 64 bytes, bit i of byte o * 4 + j. Fifth and sixth
// follow as 128 bytes, bits 2 (i % 4) and up of byte (i / 4) * 64 + o * 4 + j. Eight bits lie unpacked.
constexpr size_t block_code_bytes(WeightFormat format) { return code_bits(format) * 64; }

// Bytes of the scales of one superblock, or of one block for the formats whose scales are halves per 32:
//   k4, k5: halves d[16], halves dmin[16], bytes scale[8][16], bytes minimum[4][16][2] (pairs of blocks interleaved)
//   k6:     halves d[16], signed bytes scale[8][16][2] (the two groups of 16 inputs of a block interleaved)
//   s4, s5, s8, n4: halves scale[16];  a4, a5: halves scale[16], halves minimum[16]
constexpr size_t scale_bytes(WeightFormat format) {
    switch (format) {
        case WeightFormat::k4:
        case WeightFormat::k5: return 320;
        case WeightFormat::k6: return 288;
        case WeightFormat::a4:
        case WeightFormat::a5: return 64;
        default: return 32;
    }
}

constexpr bool scaled_by_superblock(WeightFormat format) {
    return format == WeightFormat::k4 || format == WeightFormat::k5 || format == WeightFormat::k6;
}

constexpr size_t panel_scale_bytes(WeightFormat format, size_t columns) {
    const size_t unit = scaled_by_superblock(format) ? superblock_columns : block_columns;
    return (columns / unit * scale_bytes(format) + 63) / 64 * 64;
}

// A panel: all its scales, then all its codes.
constexpr size_t panel_bytes(WeightFormat format, size_t columns) {
    return panel_scale_bytes(format, columns) + columns / block_columns * block_code_bytes(format);
}

// A view of a packed matrix of `rows` outputs by `columns` inputs. The last panel's missing rows are zero.
struct WeightView {
    WeightFormat format;
    size_t rows;
    size_t columns;
    const uint8_t* data;

    size_t panels() const { return (rows + panel_rows - 1) / panel_rows; }
};

// How many activations share a scale. Weights that are scaled by superblock need coarse ones, because their products are
// summed as integers; the others' results are the better for fine ones.
enum class Granularity : uint8_t { fine, coarse };  // 32, 256

constexpr Granularity granularity_for(WeightFormat format) {
    return scaled_by_superblock(format) ? Granularity::coarse : Granularity::fine;
}

// Bytes of one tile of 8 quantised activation rows of `columns` values: signed codes, float scales per 32 (of which the
// coarse ones are equal), and the sums of the codes that the weights' minimums and offsets are multiplied by.
//   codes[columns / 32][8][32], scales[superblocks][8][8], sums16[superblocks][8][16], sums32[superblocks][8][8]
struct TileLayout {
    size_t columns;

    constexpr size_t superblocks() const { return (columns + superblock_columns - 1) / superblock_columns; }
    constexpr size_t codes() const { return 0; }
    constexpr size_t scales() const { return columns * tile_rows; }
    constexpr size_t sums16() const { return scales() + superblocks() * tile_rows * superblock_blocks * sizeof(float); }
    constexpr size_t sums32() const { return sums16() + superblocks() * tile_rows * 16 * sizeof(int16_t); }
    constexpr size_t bytes() const {
        return (sums32() + superblocks() * tile_rows * 8 * sizeof(int16_t) + 63) / 64 * 64;
    }
};

}  // namespace quern
