#pragma once

#include "kernels/operands.h"

// Quantised matrix multiplication: tiles of 8 int8 rows against panels of 16 packed outputs. A block of weights is
// unpacked into registers once for all rows of a tile. Integer dot products per 32, after llama.cpp's Q4_K x Q8_K, scaled
// in integers where the format allows. Included once per instruction set.
namespace quern::QUERN_ISA {
namespace {

template <WeightFormat format, size_t first = 0, size_t last = 8>
QUERN_INLINE Ints dot(Ints sum, const Block& block, const int8_t* row) {
#pragma GCC unroll 8
    for (size_t i = first; i < last; ++i) {
        sum = dot_quads<has_wide_codes(format)>(sum, block.quads[i], broadcast_quad(row + 4 * i));
    }
    return sum;
}

// total[r] += row r of the tile times a superblock of k4 or k5.
template <WeightFormat format, size_t rows>
QUERN_INLINE void add_minimum_superblock(Floats* total, const uint8_t* scales, const uint8_t* codes, const Tile& tile) {
    Ints sums[rows], minimums[rows];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) sums[r] = minimums[r] = zero_ints();
    for (size_t b = 0; b < superblock_blocks; ++b) {
        const Block block = unpack<format>(codes + b * block_code_bytes(format));
        const Ints scale = load_bytes(scales + 64 + 16 * b);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
            const int8_t* row = tile.codes + (b * tile_rows + r) * block_columns;
            sums[r] = add(sums[r], mul(dot<format>(zero_ints(), block, row), scale));
        }
    }
    for (size_t pair = 0; pair < superblock_blocks / 2; ++pair) {
        const Pairs minimum = load_unsigned_pairs(scales + 192 + 32 * pair);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
            minimums[r] = dot_pairs(minimums[r], minimum, tile.sums32 + r * 8 + 2 * pair);
        }
    }
    const Floats d = load_halves(scales), dmin = load_halves(scales + 32);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
        const Floats value = multiply_subtract(dmin, to_floats(minimums[r]), mul(d, to_floats(sums[r])));
        total[r] = multiply_add(value, broadcast(tile.scales[r * superblock_blocks]), total[r]);
    }
}

// total[r] += row r of the tile times a superblock of k6.
template <size_t rows>
QUERN_INLINE void add_signed_superblock(Floats* total, const uint8_t* scales, const uint8_t* codes, const Tile& tile) {
    constexpr auto format = WeightFormat::k6;
    Ints sums[rows], offsets[rows];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) sums[r] = offsets[r] = zero_ints();
    for (size_t b = 0; b < superblock_blocks; ++b) {
        const Block block = unpack<format>(codes + b * block_code_bytes(format));
        const Pairs scale = load_signed_pairs(scales + 32 + 32 * b);
        const Ints first = first_of_pairs(scale), second = second_of_pairs(scale);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
            const int8_t* row = tile.codes + (b * tile_rows + r) * block_columns;
            sums[r] = add(sums[r], mul(dot<format, 0, 4>(zero_ints(), block, row), first));
            sums[r] = add(sums[r], mul(dot<format, 4, 8>(zero_ints(), block, row), second));
            offsets[r] = dot_pairs(offsets[r], scale, tile.sums16 + r * 16 + 2 * b);
        }
    }
    const Floats d = load_halves(scales);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
        const Floats value = mul(d, to_floats(sub(sums[r], shift_left<5>(offsets[r]))));
        total[r] = multiply_add(value, broadcast(tile.scales[r * superblock_blocks]), total[r]);
    }
}

// total[r] += row r of the tile times up to 8 blocks with a half (or two) per 32.
template <WeightFormat format, size_t rows>
QUERN_INLINE void add_blocks(Floats* total, const uint8_t* scales, const uint8_t* codes, const Tile& tile,
                             size_t blocks) {
    for (size_t b = 0; b < blocks; ++b) {
        const Block block = unpack<format>(codes + b * block_code_bytes(format));
        const uint8_t* scale_at = scales + b * scale_bytes(format);
        const Floats scale = load_halves(scale_at);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; ++r) {
            const int8_t* row = tile.codes + (b * tile_rows + r) * block_columns;
            const int32_t sum = tile.sums32[r * 8 + b];
            const Floats row_scale = broadcast(tile.scales[r * superblock_blocks + b]);
            const Ints start = is_affine(format) ? zero_ints() : broadcast(-code_offset(format) * sum);
            const Floats products = to_floats(dot<format>(start, block, row));
            total[r] = multiply_add(mul(products, scale), row_scale, total[r]);
            if constexpr (is_affine(format)) {
                const Floats minimum = mul(load_halves(scale_at + 32), broadcast(static_cast<float>(sum)));
                total[r] = multiply_add(minimum, row_scale, total[r]);
            }
        }
    }
}

template <WeightFormat format, size_t rows>
void multiply_tile(const WeightView& w, size_t panel, const TilesView& a, size_t first_row, const Output& out) {
    const uint8_t* scales = w.data + panel * panel_bytes(format, w.columns);
    const uint8_t* codes = scales + panel_scale_bytes(format, w.columns);
    Tile tile = tile_at(a, first_row, 0);
    Floats total[rows];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) total[r] = zero();
    const size_t blocks = w.columns / block_columns;
    for (size_t b = 0; b < blocks; b += superblock_blocks) {
        if constexpr (format == WeightFormat::k6) {
            add_signed_superblock<rows>(total, scales, codes, tile);
            scales += scale_bytes(format);
        } else if constexpr (scaled_by_superblock(format)) {
            add_minimum_superblock<format, rows>(total, scales, codes, tile);
            scales += scale_bytes(format);
        } else {
            const size_t count = blocks - b < superblock_blocks ? blocks - b : superblock_blocks;
            add_blocks<format, rows>(total, scales, codes, tile, count);
            scales += superblock_blocks * scale_bytes(format);
        }
        codes += superblock_blocks * block_code_bytes(format);
        tile.codes += superblock_columns * tile_rows;
        tile.scales += tile_rows * superblock_blocks;
        tile.sums16 += tile_rows * 16;
        tile.sums32 += tile_rows * 8;
    }
    for (size_t r = 0; r < rows; ++r) finish_panel(w, panel, first_row + r, total[r], out);
}

template <WeightFormat format, size_t rows = max_tile_rows>
void multiply_rows(const WeightView& w, size_t panel, const TilesView& a, size_t first, size_t count,
                   const Output& out) {
    if (count == rows) return multiply_tile<format, rows>(w, panel, a, first, out);
    if constexpr (rows > 1) multiply_rows<format, rows - 1>(w, panel, a, first, count, out);
}

template <WeightFormat format>
void multiply_panels(const WeightView& w, const TilesView& a, size_t first_panel, size_t last_panel,
                     const Output& out) {
    // Activations that stay in the second-level cache while all panels pass by.
    constexpr size_t cached_bytes = size_t{512} * 1024;
    const size_t chunk = cached_bytes / TileLayout{w.columns}.bytes() * tile_rows;
    const size_t step = chunk < 4 * tile_rows ? 4 * tile_rows : chunk;
    for (size_t begin = 0; begin < a.rows; begin += step) {
        const size_t end = begin + step < a.rows ? begin + step : a.rows;
        for (size_t panel = first_panel; panel < last_panel; ++panel) {
            for (size_t row = begin; row < end; row += max_tile_rows) {
                const size_t count = end - row < max_tile_rows ? end - row : max_tile_rows;
                multiply_rows<format>(w, panel, a, row, count, out);
            }
        }
    }
}

void multiply(const WeightView& w, const TilesView& a, size_t first_panel, size_t last_panel, const Output& out) {
    switch (w.format) {
        case WeightFormat::k4: return multiply_panels<WeightFormat::k4>(w, a, first_panel, last_panel, out);
        case WeightFormat::k5: return multiply_panels<WeightFormat::k5>(w, a, first_panel, last_panel, out);
        case WeightFormat::k6: return multiply_panels<WeightFormat::k6>(w, a, first_panel, last_panel, out);
        case WeightFormat::s4: return multiply_panels<WeightFormat::s4>(w, a, first_panel, last_panel, out);
        case WeightFormat::s5: return multiply_panels<WeightFormat::s5>(w, a, first_panel, last_panel, out);
        case WeightFormat::s8: return multiply_panels<WeightFormat::s8>(w, a, first_panel, last_panel, out);
        case WeightFormat::n4: return multiply_panels<WeightFormat::n4>(w, a, first_panel, last_panel, out);
        case WeightFormat::a4: return multiply_panels<WeightFormat::a4>(w, a, first_panel, last_panel, out);
        case WeightFormat::a5: return multiply_panels<WeightFormat::a5>(w, a, first_panel, last_panel, out);
    }
}

}  // namespace
}  // namespace quern::QUERN_ISA
