#include "sampling/random.h"

namespace quern {

namespace {

using Words = std::array<uint32_t, 4>;

// The authors' known answers: Random123, tests/kat_vectors, "philox4x32 10".
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8});
static_assert(philox4x32({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, {0xFFFFFFFF, 0xFFFFFFFF}) ==
              Words{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD});
static_assert(philox4x32({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}) ==
              Words{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1});

}  // namespace

double uniform(uint64_t seed, uint64_t n) {
    const Words words = philox4x32({static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), 0, 0},
                                   {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    const uint64_t bits = static_cast<uint64_t>(words[1]) << 32 | words[0];
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace quern
