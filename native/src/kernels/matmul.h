#pragma once

#include "kernels/kernels.h"

// Quantised matrix multiplication: panels of 16 packed outputs against tiles of 8 int8 rows, after the scheme of
// llama.cpp's Q4_K x Q8_K (integer dot products per 32, scaled in integers where the format allows). A block of weights
// is unpacked once for all rows of a tile. Included once per instruction set.
namespace quern::QUERN_ISA {
namespace {

// IQ4_NL's values plus 128, so that they are unsigned.
alignas(16) constexpr uint8_t iq4nl_table[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                 129, 141, 153, 166, 181, 197, 217, 241};

struct Block {
    Quads quads[8];  // inputs 4 i to 4 i + 3
};

template <size_t... i, class F>
QUERN_INLINE void unroll_indices(std::index_sequence<i...>, F&& f) {
    (f(std::integral_constant<int, static_cast<int>(i)>{}), ...);
}
// Calls f with 0..count-1 as compile-time constants.
template <size_t count, class F>
QUERN_INLINE void unroll(F&& f) {
    unroll_indices(std::make_index_sequence<count>{}, f);
}

// How far ahead of the codes being read the next ones are asked for; hardware prefetching alone stalls at page ends.
constexpr size_t prefetch_distance = 2048;

template <WeightFormat format>
QUERN_INLINE Block unpack(const uint8_t* p) {
    Block block;
    for (size_t i = 0; i < block_code_bytes(format); i += 64) prefetch(p + prefetch_distance + i);
    if constexpr (code_bits(format) == 8) {
        for (size_t i = 0; i < 8; ++i) block.quads[i] = load_quads(p + 64 * i);
        return block;
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
        const Quads packed = load_quads(p + 64 * i);
        block.quads[i] = keep_bits<0x0F>(packed);
        block.quads[i + 4] = keep_bits<0x0F>(shift<-4>(packed));
    }
    if constexpr (code_bits(format) == 5) {
        const Quads high = load_quads(p + 256);
        unroll<8>([&](auto i) { block.quads[i] = insert_bits<0x10>(block.quads[i], shift<4 - i>(high)); });
    } else if constexpr (code_bits(format) == 6) {
        const Quads high[2] = {load_quads(p + 256), load_quads(p + 320)};
        unroll<8>([&](auto i) {
            block.quads[i] = insert_bits<0x30>(block.quads[i], shift<4 - 2 * (i % 4)>(high[i / 4]));
        });
    } else if constexpr (format == WeightFormat::n4) {
        for (Quads& quad : block.quads) quad = look_up(iq4nl_table, quad);
    }
    return block;
}

template <WeightFormat format, size_t first = 0, size_t last = 8>
QUERN_INLINE Ints dot(Ints sum, const Block& block, const int8_t* row) {
#pragma GCC unroll 8
    for (size_t i = first; i < last; ++i) {
        sum = dot_quads<code_bits(format) == 8>(sum, block.quads[i], row + 4 * i);
    }
    return sum;
}

// One tile of quantised rows, as in TileLayout.
struct Tile {
    const int8_t* codes;
    const float* scales;
    const int16_t* sums16;
    const int16_t* sums32;
};

QUERN_INLINE Tile tile_from_row(const TilesView& a, size_t row) {
    const TileLayout layout{a.columns};
    const uint8_t* tile = a.tiles + row / tile_rows * layout.bytes();
    const size_t r = row % tile_rows;
    return {reinterpret_cast<const int8_t*>(tile) + r * block_columns,
            reinterpret_cast<const float*>(tile + layout.scales()) + r,
            reinterpret_cast<const int16_t*>(tile + layout.sums16()) + r * 16,
            reinterpret_cast<const int16_t*>(tile + layout.sums32()) + r * 8};
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
        const Floats value = sub(mul(d, to_floats(sums[r])), mul(dmin, to_floats(minimums[r])));
        total[r] = multiply_add(value, broadcast(tile.scales[r]), total[r]);
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
        total[r] = multiply_add(value, broadcast(tile.scales[r]), total[r]);
    }
}

constexpr int32_t code_offset(WeightFormat format) {
    switch (format) {
        case WeightFormat::s4: return 8;
        case WeightFormat::s5: return 16;
        case WeightFormat::s8:
        case WeightFormat::n4: return 128;
        default: return 0;
    }
}

// total[r] += row r of the tile times up to 8 blocks with a half (or two) per 32.
template <WeightFormat format, size_t rows>
QUERN_INLINE void add_blocks(Floats* total, const uint8_t* scales, const uint8_t* codes, const Tile& tile,
                             size_t blocks) {
    constexpr bool affine = format == WeightFormat::a4 || format == WeightFormat::a5;
    Floats sums[rows];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) sums[r] = zero();
    for (size_t b = 0; b < blocks; ++b) {
        const Block block = unpack<format>(codes + b * block_code_bytes(format));
        const uint8_t* scale_at = scales + b * scale_bytes(format);
        const Floats scale = load_halves(scale_at);
    #pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
            const int8_t* row = tile.codes + (b * tile_rows + r) * block_columns;
            const int32_t sum = tile.sums32[r * 8 + b];
            const Ints start = affine ? zero_ints() : broadcast(-code_offset(format) * sum);
            sums[r] = multiply_add(to_floats(dot<format>(start, block, row)), scale, sums[r]);
            if constexpr (affine) {
                const Floats minimum = load_halves(scale_at + 32);
                sums[r] = multiply_add(minimum, broadcast(static_cast<float>(sum)), sums[r]);
            }
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) total[r] = multiply_add(sums[r], broadcast(tile.scales[r]), total[r]);
}

QUERN_INLINE void finish(const Output& out, size_t row, size_t column, Floats value) {
    float* p = out.data + row * out.stride + column;
    switch (out.epilogue) {
        case Epilogue::store: store(p, out.bias ? add(value, load(out.bias + column)) : value); break;
        case Epilogue::add: store(p, add(load(p), value)); break;
        case Epilogue::silu_mul: store(p, mul(silu(load(p)), value)); break;
    }
}

// The last panel of a matrix whose outputs are not a multiple of 16.
QUERN_INLINE void finish_some(const Output& out, size_t row, size_t column, size_t count, Floats value) {
    alignas(64) float values[panel_rows], existing[panel_rows] = {}, bias[panel_rows] = {};
    float* p = out.data + row * out.stride + column;
    for (size_t i = 0; i < count; ++i) {
        existing[i] = p[i];
        bias[i] = out.bias ? out.bias[column + i] : 0.0F;
    }
    const Output buffer{existing, 0, out.epilogue, out.bias ? bias : nullptr};
    finish(buffer, 0, 0, value);
    for (size_t i = 0; i < count; ++i) values[i] = existing[i];
    for (size_t i = 0; i < count; ++i) p[i] = values[i];
}

template <WeightFormat format, size_t rows>
void multiply_tile(const WeightView& w, size_t panel, const TilesView& a, size_t first_row, const Output& out) {
    const uint8_t* scales = w.data + panel * panel_bytes(format, w.columns);
    const uint8_t* codes = scales + panel_scale_bytes(format, w.columns);
    Tile tile = tile_from_row(a, first_row);
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
        tile.scales += tile_rows;
        tile.sums16 += tile_rows * 16;
        tile.sums32 += tile_rows * 8;
    }
    const size_t column = panel * panel_rows;
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
        if (column + panel_rows <= w.rows) {
            finish(out, first_row + r, column, total[r]);
        } else {
            finish_some(out, first_row + r, column, w.rows - column, total[r]);
        }
    }
}

template <WeightFormat format, size_t rows = max_tile_rows>
void multiply_rest(const WeightView& w, size_t panel, const TilesView& a, size_t first, size_t count,
                   const Output& out) {
    if (count == rows) return multiply_tile<format, rows>(w, panel, a, first, out);
    if constexpr (rows > 1) multiply_rest<format, rows - 1>(w, panel, a, first, count, out);
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
                multiply_rest<format>(w, panel, a, row, count, out);
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
