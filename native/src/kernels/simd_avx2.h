#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// Sixteen lanes as two halves of AVX2, with AVX-VNNI's dot product where the translation unit has it. The names are
// those of simd_avx512.h, and so is the reason for `static`.
#define QUERN_INLINE static inline __attribute__((always_inline))

namespace quern::QUERN_ISA {

inline constexpr size_t max_tile_rows = 4;

struct Floats {
    __m256 low, high;
};
struct Ints {
    __m256i low, high;
};
using Pairs = Ints;
using Quads = Ints;
using HalfPairs = Ints;

QUERN_INLINE int32_t word_at(const void* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

QUERN_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
QUERN_INLINE Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
QUERN_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
QUERN_INLINE void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
QUERN_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
QUERN_INLINE Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
QUERN_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
QUERN_INLINE Floats divide(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
QUERN_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// c - a * b
QUERN_INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
QUERN_INLINE Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
QUERN_INLINE Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
QUERN_INLINE Floats absolute(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
QUERN_INLINE Floats round_to_nearest(Floats a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
QUERN_INLINE float first_lane(Floats a) { return _mm256_cvtss_f32(a.low); }
QUERN_INLINE float horizontal_sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
QUERN_INLINE float horizontal_max(Floats a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// For |n| <= 126.
QUERN_INLINE Floats scale_by_power_of_two(Floats a, Floats n) {
    const auto power = [](__m256 exponent) {
        const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    };
    return {_mm256_mul_ps(a.low, power(n.low)), _mm256_mul_ps(a.high, power(n.high))};
}
QUERN_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
QUERN_INLINE Floats load_halves(const uint8_t* p) {
    return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 16))};
}
// a where index < limit, else `other`.
QUERN_INLINE Floats keep_below(Floats index, float limit, Floats a, float other) {
    const auto half = [&](__m256 i, __m256 x) {
        return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_cmp_ps(i, _mm256_set1_ps(limit), _CMP_LT_OQ));
    };
    return {half(index.low, a.low), half(index.high, a.high)};
}

QUERN_INLINE Ints zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
QUERN_INLINE Ints broadcast(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
QUERN_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
QUERN_INLINE Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
QUERN_INLINE Ints mul(Ints a, Ints b) {
    return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
template <int bits> QUERN_INLINE Ints shift_left(Ints a) {
    return {_mm256_slli_epi32(a.low, bits), _mm256_slli_epi32(a.high, bits)};
}
QUERN_INLINE Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
QUERN_INLINE Ints to_ints(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
QUERN_INLINE int32_t horizontal_sum(Ints a) {
    const __m256i eight = _mm256_add_epi32(a.low, a.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
QUERN_INLINE __m128i load_64(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
QUERN_INLINE Ints load_bytes(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(load_64(p)), _mm256_cvtepu8_epi32(load_64(p + 8))};
}
QUERN_INLINE void store_as_bytes(int8_t* p, Ints a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

QUERN_INLINE Pairs load_unsigned_pairs(const uint8_t* p) {
    return {_mm256_cvtepu8_epi16(load_128(p)), _mm256_cvtepu8_epi16(load_128(p + 16))};
}
QUERN_INLINE Pairs load_signed_pairs(const uint8_t* p) {
    return {_mm256_cvtepi8_epi16(load_128(p)), _mm256_cvtepi8_epi16(load_128(p + 16))};
}
QUERN_INLINE Ints first_of_pairs(Pairs a) {
    return {_mm256_srai_epi32(_mm256_slli_epi32(a.low, 16), 16), _mm256_srai_epi32(_mm256_slli_epi32(a.high, 16), 16)};
}
QUERN_INLINE Ints second_of_pairs(Pairs a) { return {_mm256_srai_epi32(a.low, 16), _mm256_srai_epi32(a.high, 16)}; }
QUERN_INLINE Ints dot_pairs(Ints sum, Pairs a, const int16_t* pair) {
    const __m256i b = _mm256_set1_epi32(word_at(pair));
    return add(sum, Ints{_mm256_madd_epi16(a.low, b), _mm256_madd_epi16(a.high, b)});
}

QUERN_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
QUERN_INLINE Quads load_quads(const uint8_t* p) { return {load_256(p), load_256(p + 32)}; }
template <uint8_t mask> QUERN_INLINE Quads keep_bits(Quads a) {
    const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
    return {_mm256_and_si256(a.low, m), _mm256_and_si256(a.high, m)};
}
template <uint8_t mask> QUERN_INLINE Quads insert_bits(Quads base, Quads bits) {
    const Quads kept = keep_bits<mask>(bits);
    return {_mm256_or_si256(base.low, kept.low), _mm256_or_si256(base.high, kept.high)};
}
// Bits may cross into the neighbouring byte; the callers mask them off.
template <int bits> QUERN_INLINE Quads shift(Quads a) {
    if constexpr (bits > 0) {
        return {_mm256_slli_epi16(a.low, bits), _mm256_slli_epi16(a.high, bits)};
    } else if constexpr (bits < 0) {
        return {_mm256_srli_epi16(a.low, -bits), _mm256_srli_epi16(a.high, -bits)};
    } else {
        return a;
    }
}
QUERN_INLINE Quads look_up(const uint8_t* table16, Quads codes) {
    const __m256i table = _mm256_broadcastsi128_si256(load_128(table16));
    return {_mm256_shuffle_epi8(table, codes.low), _mm256_shuffle_epi8(table, codes.high)};
}
// vpmaddubsw saturates at 16 bits, which codes of up to 7 bits cannot reach (127 * 127 * 2). Eight-bit codes are taken
// as their low 7 bits, and the top bit, worth 128, apart.
template <bool eight_bits> QUERN_INLINE __m256i dot_256(__m256i sum, __m256i weights, __m256i values) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, weights, values);
#else
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (eight_bits) {
        const __m256i low = _mm256_and_si256(weights, _mm256_set1_epi8(0x7F));
        const __m256i top = _mm256_and_si256(_mm256_srli_epi16(weights, 7), _mm256_set1_epi8(1));
        const __m256i of_top = _mm256_madd_epi16(_mm256_maddubs_epi16(top, values), ones);
        sum = _mm256_add_epi32(sum, _mm256_slli_epi32(of_top, 7));
        weights = low;
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, values), ones));
#endif
}
QUERN_INLINE Quads broadcast_quad(const int8_t* quad) {
    const __m256i word = _mm256_set1_epi32(word_at(quad));
    return {word, word};
}
template <bool eight_bits> QUERN_INLINE Ints dot_quads(Ints sum, Quads weights, Quads values) {
    return {dot_256<eight_bits>(sum.low, weights.low, values.low),
            dot_256<eight_bits>(sum.high, weights.high, values.high)};
}

QUERN_INLINE HalfPairs load_half_pairs(const uint16_t* p) { return {load_256(p), load_256(p + 16)}; }
QUERN_INLINE void store_half_pairs(uint16_t* p, HalfPairs a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16), a.high);
}
QUERN_INLINE __m256i pack_upper_halves(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16)), 0xD8);
}
// Signed bytes are exact in bfloat16.
QUERN_INLINE HalfPairs load_byte_pairs(const int8_t* p) {
    const auto floats = [p](size_t i) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(p) + i;
        return _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(bytes))));
    };
    return {pack_upper_halves(floats(0), floats(8)), pack_upper_halves(floats(16), floats(24))};
}
// 16 floats to bfloat16, rounding to nearest even; no NaNs.
QUERN_INLINE void store_as_bfloat16(uint16_t* p, Floats x) {
    const auto rounded = [](__m256 half) {
        const __m256i bits = _mm256_castps_si256(half);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    };
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pack_upper_halves(rounded(x.low), rounded(x.high)));
}
QUERN_INLINE __m256 dot_half_pairs_256(__m256 sum, __m256i a, __m256i b) {
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000));
    const auto first = [](__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); };
    const auto second = [upper](__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, upper)); };
    return _mm256_fmadd_ps(second(a), second(b), _mm256_fmadd_ps(first(a), first(b), sum));
}
QUERN_INLINE Floats dot_half_pairs(Floats sum, HalfPairs a, const uint16_t* pair) {
    const __m256i b = _mm256_set1_epi32(word_at(pair));
    return {dot_half_pairs_256(sum.low, a.low, b), dot_half_pairs_256(sum.high, a.high, b)};
}

QUERN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace quern::QUERN_ISA
