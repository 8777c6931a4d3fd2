#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/layout.h"

// The kernels of one instruction set, and the choice among them.
namespace quern {

// What happens to a computed output: stored (after adding a bias), added to what is there, or used as the `up` half of
// SwiGLU: out = silu(out) * value.
enum class Epilogue : uint8_t { store, add, silu_mul };

// Float outputs, row-major: rows as in the activation tiles, `stride` floats apart.
struct Output {
    float* data;
    size_t stride;
    Epilogue epilogue = Epilogue::store;
    const float* bias = nullptr;  // one per output, or none
};

// Float rows, one after the other.
struct RowsView {
    const float* data;
    size_t rows;
    size_t columns;
};

// Quantised activation rows: `tiles` as in TileLayout.
struct TilesView {
    const uint8_t* tiles;
    size_t rows;
    size_t columns;
};

enum class KvType : uint8_t { bf16, int8 };

inline constexpr size_t block_tokens = 32;   // tokens in one block of the KV cache
inline constexpr size_t query_tile_rows = 64;

// How the keys and values of one KV head in one block lie in memory.
//   bf16: keys[2][dim / 2][16 tokens][2], then values[16 token pairs][dim][2]
//   int8: the same with bytes, then float scales: one per token for keys, one per token for values
struct KvLayout {
    KvType type;
    size_t dim;

    constexpr size_t element() const { return type == KvType::bf16 ? 2 : 1; }
    constexpr size_t values() const { return block_tokens * dim * element(); }
    constexpr size_t scales() const { return 2 * values(); }
    constexpr size_t bytes() const {
        return scales() + (type == KvType::int8 ? 2 * block_tokens * sizeof(float) : 0);
    }
};

// Attention of up to query_tile_rows rows over one KV head. Row r belongs to query token r / group and to the r % group-th
// of the `group` heads that share the KV head.
struct AttentionTask {
    KvLayout layout;
    const uint8_t* cache;      // this layer's and this head's part of block 0
    size_t block_stride;       // bytes from one block to the next
    const int32_t* blocks;     // the sequence's blocks
    const uint16_t* queries;   // bfloat16, of the first row's token; scaled by 1 / sqrt(dim)
    size_t query_stride;       // elements from one token to the next
    float* output;             // of the first row's token, same order as the queries
    size_t output_stride;      // floats from one token to the next
    size_t rows;               // tokens * group
    size_t group;
    size_t position;           // of the first row's token: it sees keys 0..position
};

// Every function computes a row by the same operations in the same order whatever rows are beside it, so a sequence's
// numbers do not depend on its company in a batch.
struct Kernels {
    std::string_view name;

    // out[rows][panels first..last of w] = a * w^T, see Epilogue.
    void (*multiply)(const WeightView& w, const TilesView& a, size_t first_panel, size_t last_panel, const Output& out);
    // Quantise tile `tile` of x.
    void (*quantise)(const RowsView& x, Granularity granularity, size_t tile, uint8_t* tiles);
    // The same of RMS-normalised rows: x / sqrt(mean(x^2) + epsilon) * weight.
    void (*normalise)(const RowsView& x, const float* weight, float epsilon, Granularity granularity, size_t tile,
                      uint8_t* tiles);
    // In place on `heads` vectors of `dim` floats each.
    void (*normalise_heads)(float* x, size_t heads, size_t dim, const float* weight, float epsilon);
    // Rotate `heads` vectors in place, NeoX style: (x[i], x[i + dim/2]) by the angle with cos[i], sin[i].
    void (*rotate)(float* x, size_t heads, size_t dim, const float* cosine, const float* sine);
    void (*to_bfloat16)(const float* x, size_t count, float scale, uint16_t* out);
    void (*attend)(const AttentionTask& task);
    float (*dot)(const float* a, const float* b, size_t count);
    // out += a * x
    void (*accumulate)(float a, const float* x, float* out, size_t count);
};

// The kernels called `name`, or of the widest set this CPU has if `name` is empty; nullptr if it cannot run them.
const Kernels* find_kernels(std::string_view name);

}  // namespace quern
