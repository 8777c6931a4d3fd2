// What this machine can do at most: the limits that benchmarks hold the kernels against.
//
// Each function runs `threads` threads for about `seconds` and gives the sum over all of them. They run flat
// out, so they belong in benchmarks only. All throw std::invalid_argument for no threads, no time or no
// bytes, and std::runtime_error on a CPU without AVX2.
#pragma once

#include <cstddef>

namespace quern {

// Bytes per second read from a buffer of `bytes`; for memory's, several times the last-level cache.
double read_bandwidth(int threads, std::size_t bytes, double seconds);

// Operations per second (a multiplication and an addition are two) of 8-bit dot products into 32-bit sums:
// `vpdpbusd` on 512 bits, or what AVX2 has instead, `vpmaddubsw`, `vpmaddwd` and `vpaddd`.
double int8_peak(int threads, double seconds);

// The same of BF16 dot products into float sums: `vdpbf16ps` on 512 bits, or float multiply-adds on 256 bits
// where BF16 has no instruction of its own.
double bf16_peak(int threads, double seconds);

}  // namespace quern
