#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// Sixteen lanes of AVX-512 under the names that the kernels are written in; simd_avx2.h has the same names.
// Everything is `static`: an inline function shared between translation units of different instruction sets would be
// merged by the linker into whichever came first.
#define QUERN_INLINE static inline __attribute__((always_inline))

namespace quern::QUERN_ISA {

inline constexpr size_t max_tile_rows = 8;

using Floats = __m512;   // 16 floats
using Ints = __m512i;    // 16 int32
using Pairs = __m512i;   // 16 pairs of int16
using Quads = __m512i;   // 16 quadruples of bytes

QUERN_INLINE int32_t word_at(const void* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

QUERN_INLINE Floats zero() { return _mm512_setzero_ps(); }
QUERN_INLINE Floats broadcast(float x) { return _mm512_set1_ps(x); }
QUERN_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
QUERN_INLINE void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
QUERN_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
QUERN_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
QUERN_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
QUERN_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
QUERN_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// c - a * b
QUERN_INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
QUERN_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
QUERN_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
QUERN_INLINE Floats absolute(Floats a) { return _mm512_abs_ps(a); }
QUERN_INLINE Floats round_to_nearest(Floats a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
QUERN_INLINE float first_lane(Floats a) { return _mm512_cvtss_f32(a); }
QUERN_INLINE float horizontal_sum(Floats a) { return _mm512_reduce_add_ps(a); }
QUERN_INLINE float horizontal_max(Floats a) { return _mm512_reduce_max_ps(a); }
QUERN_INLINE Floats scale_by_power_of_two(Floats a, Floats n) { return _mm512_scalef_ps(a, n); }
QUERN_INLINE Floats load_halves(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// a where index < limit, else `other`.
QUERN_INLINE Floats keep_below(Floats index, float limit, Floats a, float other) {
    const __mmask16 below = _mm512_cmp_ps_mask(index, _mm512_set1_ps(limit), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(below, _mm512_set1_ps(other), a);
}

QUERN_INLINE Ints zero_ints() { return _mm512_setzero_si512(); }
QUERN_INLINE Ints broadcast(int32_t x) { return _mm512_set1_epi32(x); }
QUERN_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
QUERN_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
QUERN_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
template <int bits> QUERN_INLINE Ints shift_left(Ints a) { return _mm512_slli_epi32(a, bits); }
QUERN_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
QUERN_INLINE Ints to_ints(Floats a) { return _mm512_cvtps_epi32(a); }
QUERN_INLINE int32_t horizontal_sum(Ints a) { return _mm512_reduce_add_epi32(a); }
QUERN_INLINE Ints load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QUERN_INLINE void store_as_bytes(int8_t* p, Ints a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a));
}

// Pairs: 16 times two int16, and their dot product with one broadcast pair.
QUERN_INLINE Pairs load_unsigned_pairs(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QUERN_INLINE Pairs load_signed_pairs(const uint8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QUERN_INLINE Ints first_of_pairs(Pairs a) { return _mm512_srai_epi32(_mm512_slli_epi32(a, 16), 16); }
QUERN_INLINE Ints second_of_pairs(Pairs a) { return _mm512_srai_epi32(a, 16); }
QUERN_INLINE Ints dot_pairs(Ints sum, Pairs a, const int16_t* pair) {
    return _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(word_at(pair)));
}

// Quads: 16 times four bytes. Weights are unsigned, the broadcast activations signed.
QUERN_INLINE Quads load_quads(const uint8_t* p) { return _mm512_loadu_si512(p); }
template <uint8_t mask> QUERN_INLINE Quads keep_bits(Quads a) {
    return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask)));
}
template <uint8_t mask> QUERN_INLINE Quads insert_bits(Quads base, Quads bits) {
    return _mm512_ternarylogic_epi32(bits, _mm512_set1_epi8(static_cast<char>(mask)), base, 0xEA);
}
// Bits may cross into the neighbouring byte; the callers mask them off.
template <int bits> QUERN_INLINE Quads shift(Quads a) {
    if constexpr (bits > 0) {
        return _mm512_slli_epi16(a, bits);
    } else if constexpr (bits < 0) {
        return _mm512_srli_epi16(a, -bits);
    } else {
        return a;
    }
}
QUERN_INLINE Quads look_up(const uint8_t* table16, Quads codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table16));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes);
}
QUERN_INLINE Quads broadcast_quad(const int8_t* quad) { return _mm512_set1_epi32(word_at(quad)); }
template <bool eight_bits> QUERN_INLINE Ints dot_quads(Ints sum, Quads weights, Quads values) {
    return _mm512_dpbusd_epi32(sum, weights, values);
}

// Bfloat16 pairs: the dot product of 16 pairs with one broadcast pair, added to 16 floats.
using HalfPairs = __m512i;
QUERN_INLINE HalfPairs load_half_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
// Signed bytes are exact in bfloat16.
QUERN_INLINE HalfPairs load_byte_pairs(const int8_t* p) {
    const auto low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    const auto high =
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16))));
    const __m256i low16 = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(low), 16));
    const __m256i high16 = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(high), 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low16), high16, 1);
}
QUERN_INLINE void store_half_pairs(uint16_t* p, HalfPairs a) { _mm512_storeu_si512(p, a); }
// 16 floats to bfloat16, rounding to nearest even; no NaNs.
QUERN_INLINE void store_as_bfloat16(uint16_t* p, Floats x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
QUERN_INLINE Floats dot_half_pairs(Floats sum, HalfPairs a, const uint16_t* pair) {
    const __m512i b = _mm512_set1_epi32(word_at(pair));
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
    const auto first = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
    const auto second = [high](__m512i x) { return _mm512_castsi512_ps(_mm512_and_si512(x, high)); };
    return _mm512_fmadd_ps(second(a), second(b), _mm512_fmadd_ps(first(a), first(b), sum));
#endif
}

QUERN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace quern::QUERN_ISA
