// A counter-based random number generator: the n-th number of a seed is a function of both, with no state.
//
// Philox 4x32 with ten rounds, from J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC'11, doi:10.1145/2063384.2063405.
#pragma once

#include <array>
#include <cstdint>

namespace quern {

// One block of 128 random bits from a 128-bit counter and a 64-bit key, least significant words first.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    constexpr int rounds = 10;
    constexpr uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
    constexpr uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85;
    for (int round = 0; round < rounds; ++round) {
        const uint64_t product0 = multiplier0 * counter[0];
        const uint64_t product1 = multiplier1 * counter[2];
        counter = {
            static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
            static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
        key = {key[0] + weyl0, key[1] + weyl1};
    }
    return counter;
}

// The n-th number of a seed: uniform in [0, 1), a multiple of 2^-53.
double uniform(uint64_t seed, uint64_t n);

}  // namespace quern
