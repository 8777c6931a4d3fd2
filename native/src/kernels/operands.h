#pragma once

#include <utility>

#include "kernels/rows.h"

// What the matrix multiplications read and write: packed codes, quantised rows, outputs. Included once per instruction
// set.
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

// One tile of quantised rows, as in TileLayout.
struct Tile {
    const int8_t* codes;
    const float* scales;
    const int16_t* sums16;
    const int16_t* sums32;
};

// From row `row` and superblock `superblock` on; the row's tile neighbours follow at their strides.
QUERN_INLINE Tile tile_at(const TilesView& a, size_t row, size_t superblock) {
    const TileLayout layout{a.columns};
    const uint8_t* tile = a.tiles + row / tile_rows * layout.bytes();
    const size_t r = row % tile_rows, s = superblock * tile_rows + r;
    return {reinterpret_cast<const int8_t*>(tile) + superblock * superblock_columns * tile_rows + r * block_columns,
            reinterpret_cast<const float*>(tile + layout.scales()) + s * superblock_blocks,
            reinterpret_cast<const int16_t*>(tile + layout.sums16()) + s * 16,
            reinterpret_cast<const int16_t*>(tile + layout.sums32()) + s * 8};
}

// Whether unpacked codes need all eight bits, as IQ4_NL's do after the table.
constexpr bool has_wide_codes(WeightFormat format) {
    return format == WeightFormat::s8 || format == WeightFormat::n4;
}

constexpr bool is_affine(WeightFormat format) { return format == WeightFormat::a4 || format == WeightFormat::a5; }

constexpr int32_t code_offset(WeightFormat format) {
    switch (format) {
        case WeightFormat::s4: return 8;
        case WeightFormat::s5: return 16;
        case WeightFormat::s8:
        case WeightFormat::n4: return 128;
        default: return 0;
    }
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
    alignas(64) float existing[panel_rows] = {}, bias[panel_rows] = {};
    float* p = out.data + row * out.stride + column;
    for (size_t i = 0; i < count; ++i) {
        existing[i] = p[i];
        bias[i] = out.bias ? out.bias[column + i] : 0.0F;
    }
    const Output buffer{existing, 0, out.epilogue, out.bias ? bias : nullptr};
    finish(buffer, 0, 0, value);
    for (size_t i = 0; i < count; ++i) p[i] = existing[i];
}

QUERN_INLINE void finish_panel(const WeightView& w, size_t panel, size_t row, Floats value, const Output& out) {
    const size_t column = panel * panel_rows;
    if (column + panel_rows <= w.rows) {
        finish(out, row, column, value);
    } else {
        finish_some(out, row, column, w.rows - column, value);
    }
}

}  // namespace
}  // namespace quern::QUERN_ISA
