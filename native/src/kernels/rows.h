#pragma once

#include "kernels/kernels.h"

// Row-wise work between the matrix multiplications. Included once per instruction set.
namespace quern::QUERN_ISA {
namespace {

constexpr size_t lanes = 16;
constexpr float smallest_scale = 1e-30F;  // below, its inverse could overflow, and the values are nothing

// e^x as 2^n * e^r with a degree-6 polynomial for |r| <= ln(2) / 2 (Cephes' expf); relative error below 2e-7.
QUERN_INLINE Floats exponential(Floats x) {
    x = max(min(x, broadcast(88.0F)), broadcast(-87.0F));
    const Floats n = round_to_nearest(mul(x, broadcast(1.44269504088896341F)));
    Floats r = multiply_add(n, broadcast(-0.693359375F), x);
    r = multiply_add(n, broadcast(2.12194440e-4F), r);
    Floats y = broadcast(1.9875691500e-4F);
    y = multiply_add(y, r, broadcast(1.3981999507e-3F));
    y = multiply_add(y, r, broadcast(8.3334519073e-3F));
    y = multiply_add(y, r, broadcast(4.1665795894e-2F));
    y = multiply_add(y, r, broadcast(1.6666665459e-1F));
    y = multiply_add(y, r, broadcast(5.0000001201e-1F));
    y = add(multiply_add(y, mul(r, r), r), broadcast(1.0F));
    return scale_by_power_of_two(y, n);
}

QUERN_INLINE Floats silu(Floats x) {
    return divide(x, add(broadcast(1.0F), exponential(sub(zero(), x))));
}

QUERN_INLINE float dot(const float* a, const float* b, size_t count) {
    Floats sum = zero();
    size_t i = 0;
    for (; i + lanes <= count; i += lanes) sum = multiply_add(load(a + i), load(b + i), sum);
    float rest = 0.0F;
    for (; i < count; ++i) rest += a[i] * b[i];
    return horizontal_sum(sum) + rest;
}

float dot_rows(const float* a, const float* b, size_t count) { return dot(a, b, count); }

void accumulate(float a, const float* x, float* out, size_t count) {
    const Floats factor = broadcast(a);
    size_t i = 0;
    for (; i + lanes <= count; i += lanes) store(out + i, multiply_add(factor, load(x + i), load(out + i)));
    for (; i < count; ++i) out[i] += a * x[i];
}

QUERN_INLINE float inverse_rms(const float* x, size_t count, float epsilon) {
    return 1.0F / __builtin_sqrtf(dot(x, x, count) / static_cast<float>(count) + epsilon);
}

void normalise_heads(float* x, size_t heads, size_t dim, const float* weight, float epsilon) {
    for (size_t head = 0; head < heads; ++head, x += dim) {
        const float factor = inverse_rms(x, dim, epsilon);
        for (size_t i = 0; i < dim; ++i) x[i] = x[i] * factor * weight[i];
    }
}

void rotate(float* x, size_t heads, size_t dim, const float* cosine, const float* sine) {
    const size_t half = dim / 2;
    for (size_t head = 0; head < heads; ++head, x += dim) {
        for (size_t i = 0; i < half; ++i) {
            const float first = x[i], second = x[i + half];
            x[i] = first * cosine[i] - second * sine[i];
            x[i + half] = second * cosine[i] + first * sine[i];
        }
    }
}

// `count` is a multiple of 16.
void to_bfloat16(const float* x, size_t count, float scale, uint16_t* out) {
    for (size_t i = 0; i < count; i += lanes) store_as_bfloat16(out + i, mul(load(x + i), broadcast(scale)));
}

// Where a superblock of one row goes, see TileLayout.
struct Quantised {
    int8_t* codes;
    float* scales;
    int16_t* sums16;
    int16_t* sums32;
};

// Codes in [-127, 127] of 32 values, and their sums.
QUERN_INLINE void quantise_block(const float* values, float scale, size_t block, const Quantised& out) {
    const Floats inverse = broadcast(scale >= smallest_scale ? 1.0F / scale : 0.0F);
    int32_t sums[2];
    for (size_t half = 0; half < 2; ++half) {
        const Ints codes = to_ints(mul(load(values + half * lanes), inverse));
        store_as_bytes(out.codes + block * tile_rows * block_columns + half * lanes, codes);
        sums[half] = horizontal_sum(codes);
        out.sums16[2 * block + half] = static_cast<int16_t>(sums[half]);
    }
    out.sums32[block] = static_cast<int16_t>(sums[0] + sums[1]);
    out.scales[block] = scale;
}

// `blocks` times 32 values, multiplied by `factor` and, where there is one, by `weight`. If one of them is infinite or not
// a number, the scales are not a number, and so is everything computed from the row: sampling then refuses it.
QUERN_INLINE void quantise_superblock(const float* x, const float* weight, float factor, size_t blocks,
                                      Granularity granularity, const Quantised& out) {
    alignas(64) float values[superblock_columns];
    float largest[superblock_blocks];
    float top = 0.0F;
    // Maximums pass over what is no number; zero times such a value is none either.
    Floats poison = zero();
    for (size_t b = 0; b < blocks; ++b) {
        Floats magnitude = zero();
        for (size_t i = b * block_columns; i < (b + 1) * block_columns; i += lanes) {
            Floats value = mul(load(x + i), broadcast(factor));
            if (weight) value = mul(value, load(weight + i));
            store(values + i, value);
            poison = multiply_add(value, zero(), poison);
            magnitude = max(magnitude, absolute(value));
        }
        largest[b] = horizontal_max(magnitude);
        top = largest[b] > top ? largest[b] : top;
    }
    const float not_a_number = horizontal_sum(poison);
    for (size_t b = 0; b < superblock_blocks; ++b) {
        if (b < blocks) {
            const float magnitude = granularity == Granularity::coarse ? top : largest[b];
            quantise_block(values + b * block_columns, magnitude / 127.0F + not_a_number, b, out);
        } else {
            out.sums16[2 * b] = out.sums16[2 * b + 1] = out.sums32[b] = 0;
            out.scales[b] = 0.0F;
        }
    }
}

QUERN_INLINE void quantise_row(const float* x, const float* weight, float factor, size_t columns,
                               Granularity granularity, size_t row, uint8_t* tile) {
    const TileLayout layout{columns};
    for (size_t s = 0; s < layout.superblocks(); ++s) {
        const size_t begin = s * superblock_columns, place = s * tile_rows + row;
        const size_t count = columns - begin < superblock_columns ? columns - begin : superblock_columns;
        const Quantised out{reinterpret_cast<int8_t*>(tile) + begin * tile_rows + row * block_columns,
                            reinterpret_cast<float*>(tile + layout.scales()) + place * superblock_blocks,
                            reinterpret_cast<int16_t*>(tile + layout.sums16()) + place * 16,
                            reinterpret_cast<int16_t*>(tile + layout.sums32()) + place * 8};
        quantise_superblock(x + begin, weight ? weight + begin : nullptr, factor, count / block_columns, granularity,
                            out);
    }
}

void quantise(const RowsView& x, Granularity granularity, size_t tile, uint8_t* tiles) {
    uint8_t* out = tiles + tile * TileLayout{x.columns}.bytes();
    for (size_t row = tile * tile_rows; row < (tile + 1) * tile_rows && row < x.rows; ++row) {
        quantise_row(x.data + row * x.columns, nullptr, 1.0F, x.columns, granularity, row % tile_rows, out);
    }
}

void normalise(const RowsView& x, const float* weight, float epsilon, Granularity granularity, size_t tile,
               uint8_t* tiles) {
    uint8_t* out = tiles + tile * TileLayout{x.columns}.bytes();
    for (size_t row = tile * tile_rows; row < (tile + 1) * tile_rows && row < x.rows; ++row) {
        const float* from = x.data + row * x.columns;
        quantise_row(from, weight, inverse_rms(from, x.columns, epsilon), x.columns, granularity, row % tile_rows, out);
    }
}

}  // namespace
}  // namespace quern::QUERN_ISA
