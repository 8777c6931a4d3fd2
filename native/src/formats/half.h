// Conversions between float and the two 16-bit float formats, IEEE 754 binary16 and bfloat16.
#pragma once

#include <bit>
#include <cstdint>

namespace quern {

// Exact: every half is a float.
inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 0x1f;
    const uint32_t mantissa = half & 0x3ff;
    // A subnormal half counts 2^-24ths, and is a normal float.
    const uint32_t small = std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
    const uint32_t biased = exponent == 0x1f ? 0xff : exponent + (127 - 15);
    const uint32_t normal = biased << 23 | mantissa << 13;
    return std::bit_cast<float>(sign | (exponent == 0 ? small : normal));
}

// Rounds to nearest, ties to even; 65520 and more become infinity.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    constexpr uint32_t infinity = 0x7f800000;
    constexpr uint32_t overflow = 0x477ff000;         // 65520, halfway between the largest half and the next
    constexpr uint32_t smallest_normal = 0x38800000;  // 2^-14
    uint32_t half;
    if (magnitude > infinity) {
        half = 0x7e00;
    } else if (magnitude >= overflow) {
        half = 0x7c00;
    } else if (magnitude < smallest_normal) {
        // The last place of 0.5 is 2^-24 like a subnormal half's, so the addition rounds there.
        half =
            std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
    } else {
        constexpr uint32_t rebias = (127 - 15) << 23;
        half = (magnitude - rebias + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    return static_cast<uint16_t>(sign | half);
}

// Exact: a bfloat16 is a float's upper half.
inline float bfloat16_to_float(uint16_t bfloat16) {
    return std::bit_cast<float>(static_cast<uint32_t>(bfloat16) << 16);
}

// Rounds to nearest, ties to even.
inline uint16_t float_to_bfloat16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) {
        // Without this bit a NaN whose upper bits are zero would turn into infinity.
        return static_cast<uint16_t>(bits >> 16 | 0x40);
    }
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace quern
