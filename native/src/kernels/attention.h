#pragma once

#include "kernels/rows.h"

// Attention over a paged KV cache with a running softmax (FlashAttention's recurrence, block by block). Included once
// per instruction set.
namespace quern::QUERN_ISA {
namespace {

constexpr size_t largest_dim = 256;
constexpr size_t group_rows = max_tile_rows;  // query rows that share a loaded key

// Up to query_tile_rows rows on their way through the key blocks.
struct RunningRows {
    alignas(64) float output[query_tile_rows][largest_dim];
    float largest[query_tile_rows];
    float sum[query_tile_rows];
};

// The part of a KV block that the dot products read: as bfloat16 pairs, converted or in place.
struct KvBlock {
    const uint16_t* keys;
    const uint16_t* values;
    const float* key_scales;    // null for bfloat16
    const float* value_scales;
};

struct ConvertedBlock {
    alignas(64) uint16_t pairs[2 * block_tokens * largest_dim];
};

QUERN_INLINE KvBlock open_block(const KvLayout& layout, const uint8_t* block, ConvertedBlock& converted) {
    const size_t count = block_tokens * layout.dim;
    if (layout.type == KvType::bf16) {
        const auto* keys = reinterpret_cast<const uint16_t*>(block);
        return {keys, keys + count, nullptr, nullptr};
    }
    for (size_t i = 0; i < 2 * count; i += 32) {
        store_half_pairs(converted.pairs + i, load_byte_pairs(reinterpret_cast<const int8_t*>(block) + i));
    }
    const auto* scales = reinterpret_cast<const float*>(block + layout.scales());
    return {converted.pairs, converted.pairs + count, scales, scales + block_tokens};
}

// scores[r] = query r . keys, for 32 keys in two halves.
template <size_t rows>
QUERN_INLINE void score(Floats (*scores)[2], const uint16_t* const* queries, const KvBlock& block, size_t dim) {
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) scores[r][0] = scores[r][1] = zero();
    for (size_t i = 0; i < dim; i += 2) {
        const HalfPairs first = load_half_pairs(block.keys + i * lanes);
        const HalfPairs second = load_half_pairs(block.keys + (dim + i) * lanes);
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; ++r) {
            scores[r][0] = dot_half_pairs(scores[r][0], first, queries[r] + i);
            scores[r][1] = dot_half_pairs(scores[r][1], second, queries[r] + i);
        }
    }
    if (block.key_scales) {
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; ++r) {
            scores[r][0] = mul(scores[r][0], load(block.key_scales));
            scores[r][1] = mul(scores[r][1], load(block.key_scales + lanes));
        }
    }
}

// Turns scores into weights relative to the row's largest score so far and returns what to scale the past with.
QUERN_INLINE float update_softmax(Floats* scores, size_t visible, float& largest, float& sum) {
    alignas(64) static constexpr float index[2 * lanes] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                           11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                           22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    if (visible < block_tokens) {
        for (size_t half = 0; half < 2; ++half) {
            const auto limit = static_cast<float>(visible);
            scores[half] = keep_below(load(index + half * lanes), limit, scores[half], -1e30F);
        }
    }
    const float here = horizontal_max(max(scores[0], scores[1]));
    const float highest = here > largest ? here : largest;
    const float correction = largest == highest ? 1.0F : first_lane(exponential(broadcast(largest - highest)));
    const Floats shift_by = broadcast(highest);
    scores[0] = exponential(sub(scores[0], shift_by));
    scores[1] = exponential(sub(scores[1], shift_by));
    if (visible < block_tokens) {
        for (size_t half = 0; half < 2; ++half) {
            const auto limit = static_cast<float>(visible);
            scores[half] = keep_below(load(index + half * lanes), limit, scores[half], 0.0F);
        }
    }
    sum = sum * correction + horizontal_sum(add(scores[0], scores[1]));
    largest = highest;
    return correction;
}

// output[r] = output[r] * correction[r] + weights[r] . values
template <size_t rows>
QUERN_INLINE void accumulate_values(float (*output)[largest_dim], const float* corrections, uint16_t (*weights)[block_tokens],
                         const KvBlock& block, size_t dim) {
    for (size_t i = 0; i < dim; i += 2 * lanes) {
        Floats sums[rows][2];
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; ++r) {
            const Floats correction = broadcast(corrections[r]);
            sums[r][0] = mul(load(output[r] + i), correction);
            sums[r][1] = mul(load(output[r] + i + lanes), correction);
        }
        for (size_t pair = 0; pair < block_tokens / 2; ++pair) {
            const HalfPairs first = load_half_pairs(block.values + (pair * dim + i) * 2);
            const HalfPairs second = load_half_pairs(block.values + (pair * dim + i + lanes) * 2);
#pragma GCC unroll 8
            for (size_t r = 0; r < rows; ++r) {
                sums[r][0] = dot_half_pairs(sums[r][0], first, weights[r] + 2 * pair);
                sums[r][1] = dot_half_pairs(sums[r][1], second, weights[r] + 2 * pair);
            }
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < rows; ++r) {
            store(output[r] + i, sums[r][0]);
            store(output[r] + i + lanes, sums[r][1]);
        }
    }
}

template <size_t rows>
void attend_block(const AttentionTask& task, const KvBlock& block, size_t first_key, size_t first_row,
                  RunningRows& running) {
    const size_t dim = task.layout.dim;
    const uint16_t* queries[rows];
    Floats scores[rows][2];
    alignas(64) uint16_t weights[rows][block_tokens];
    float corrections[rows];
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
        const size_t row = first_row + r;
        queries[r] = task.queries + row / task.group * task.query_stride + row % task.group * dim;
    }
    score<rows>(scores, queries, block, dim);
#pragma GCC unroll 8
    for (size_t r = 0; r < rows; ++r) {
        const size_t row = first_row + r;
        const size_t seen = task.position + row / task.group + 1;
        const size_t visible = seen <= first_key ? 0 : seen - first_key;
        corrections[r] = visible == 0 ? 1.0F : update_softmax(scores[r], visible, running.largest[row], running.sum[row]);
        for (size_t half = 0; half < 2; ++half) {
            Floats weight = visible == 0 ? zero() : scores[r][half];
            if (block.value_scales) weight = mul(weight, load(block.value_scales + half * lanes));
            store_as_bfloat16(weights[r] + half * lanes, weight);
        }
    }
    accumulate_values<rows>(running.output + first_row, corrections, weights, block, dim);
}

template <size_t rows = group_rows>
void attend_some(const AttentionTask& task, const KvBlock& block, size_t first_key, size_t first_row, size_t count,
                 RunningRows& running) {
    if (count == rows) return attend_block<rows>(task, block, first_key, first_row, running);
    if constexpr (rows > 1) attend_some<rows - 1>(task, block, first_key, first_row, count, running);
}

void attend(const AttentionTask& task) {
    RunningRows running;
    ConvertedBlock converted;
    const size_t dim = task.layout.dim;
    for (size_t row = 0; row < task.rows; ++row) {
        running.largest[row] = -1e30F;
        running.sum[row] = 0.0F;
        for (size_t i = 0; i < dim; ++i) running.output[row][i] = 0.0F;
    }
    const size_t keys = task.position + (task.rows - 1) / task.group + 1;
    for (size_t key = 0; key < keys; key += block_tokens) {
        const auto index = static_cast<size_t>(task.blocks[key / block_tokens]);
        const KvBlock block = open_block(task.layout, task.cache + index * task.block_stride, converted);
        for (size_t row = 0; row < task.rows; row += group_rows) {
            const size_t count = task.rows - row < group_rows ? task.rows - row : group_rows;
            attend_some(task, block, key, row, count, running);
        }
    }
    for (size_t row = 0; row < task.rows; ++row) {
        float* out = task.output + row / task.group * task.output_stride + row % task.group * dim;
        const float inverse = 1.0F / running.sum[row];
        for (size_t i = 0; i < dim; ++i) out[i] = running.output[row][i] * inverse;
    }
}

}  // namespace
}  // namespace quern::QUERN_ISA
