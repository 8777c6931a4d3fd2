// The exponential function, without the calls and branches that keep a compiler from vectorising std::exp.
#pragma once

#include <bit>
#include <cstdint>

namespace quern {

// The least argument of exp_of, which gives 0 for it. Use it for anything less.
inline constexpr float least_exponent = -88.0F;

// exp(x) for least_exponent <= x <= 0, with a relative error below 2e-7; 0 for x < -87.7.
//
// It is 2^n * exp(r) with n the integer nearest to x / ln 2, so that |r| <= ln(2) / 2, where Taylor's
// polynomial of degree 7 is off by less than r^8 / 8! = 6e-9: the rest of the error is rounding. For the
// least x n is -127, and a float with that exponent is 0. It does not compare: GCC would branch on it, and
// not vectorise the caller's loop.
[[gnu::always_inline]] inline float exp_of(float x) {
    constexpr float to_nearest = 0x1.8p23F;  // adding it leaves the nearest integer in the lowest bits
    constexpr float log2_e = 1.44269504F;
    constexpr float ln2_high = 0x1.62e4p-1F;    // 14 bits, so that its product with n is exact
    constexpr float ln2_low = 0x1.7f7d1cp-20F;  // the rest of ln 2
    const float shifted = x * log2_e + to_nearest;
    const float n = shifted - to_nearest;
    const float r = (x - n * ln2_high) - n * ln2_low;
    float sum = 1.0F / 5040;
    sum = sum * r + 1.0F / 720;
    sum = sum * r + 1.0F / 120;
    sum = sum * r + 1.0F / 24;
    sum = sum * r + 1.0F / 6;
    sum = sum * r + 0.5F;
    sum = sum * r + 1.0F;
    sum = sum * r + 1.0F;
    const uint32_t power = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000U;
    return sum * std::bit_cast<float>(power);
}

}  // namespace quern
