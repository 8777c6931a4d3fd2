#include "runtime/peaks.h"

#include <immintrin.h>

#include <array>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

// Independent sums: more than latency times throughput of any of these instructions, fewer than registers.
constexpr int sums = 12;
constexpr int rounds = 20000;

// Each empty `asm` below hides a register's value from the optimiser, which could fold the loop away.

__attribute__((target("avx512f,avx512vnni"))) double int8_avx512() {
    __m512i sum[sums] = {};
    __m512i left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(5);
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (__m512i& each : sum) {
            each = _mm512_dpbusd_epi32(each, left, right);
            asm volatile("" : "+v"(each));
        }
    }
    return 2.0 * 64 * sums * rounds;
}

__attribute__((target("avx2"))) double int8_avx2() {
    __m256i sum[sums] = {};
    __m256i left = _mm256_set1_epi8(3), right = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (__m256i& each : sum) {
            asm volatile("" : "+x"(left));
            each = _mm256_add_epi32(each, _mm256_madd_epi16(_mm256_maddubs_epi16(left, right), ones));
            asm volatile("" : "+x"(each));
        }
    }
    return 2.0 * 32 * sums * rounds;
}

__attribute__((target("avx512f,avx512bf16"))) double bf16_avx512() {
    __m512 sum[sums] = {};
    const __m512i bits = _mm512_set1_epi16(0x3f80);  // 1.0
    const __m512bh left = reinterpret_cast<const __m512bh&>(bits), right = left;
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (__m512& each : sum) {
            each = _mm512_dpbf16_ps(each, left, right);
            asm volatile("" : "+v"(each));
        }
    }
    return 2.0 * 32 * sums * rounds;
}

__attribute__((target("avx2,fma"))) double float_avx2() {
    __m256 sum[sums] = {};
    const __m256 left = _mm256_set1_ps(1.5F), right = _mm256_set1_ps(0.5F);
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (__m256& each : sum) {
            each = _mm256_fmadd_ps(left, right, each);
            asm volatile("" : "+x"(each));
        }
    }
    return 2.0 * 8 * sums * rounds;
}

struct alignas(64) CacheLine {
    std::array<std::byte, 64> bytes;
};

__attribute__((target("avx2"))) void read_all(const std::vector<CacheLine>& lines) {
    __m256i sum[2] = {};
    for (const CacheLine& line : lines) {
        const auto* halves = reinterpret_cast<const __m256i*>(line.bytes.data());
        sum[0] = _mm256_xor_si256(sum[0], _mm256_load_si256(halves));
        sum[1] = _mm256_xor_si256(sum[1], _mm256_load_si256(halves + 1));
    }
    for (__m256i& each : sum) asm volatile("" : "+x"(each));
}

void check(int threads, double seconds) {
    if (threads < 1 || !(seconds > 0)) {
        throw std::invalid_argument("a peak is measured with at least one thread and for more than no time");
    }
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        throw std::runtime_error("this CPU has no AVX2, which the CPU engine needs: use another machine");
    }
}

// Repeated until the time is up; returns how much was done.
using Work = std::function<double()>;
using Works = std::vector<Work>;

// What all of `works` get done per second together, each in a thread of its own.
double rate(const Works& works, double seconds) {
    std::barrier together(static_cast<std::ptrdiff_t>(works.size()));
    std::vector<double> rates(works.size());
    {
        std::vector<std::jthread> running;
        for (std::size_t index = 0; index < works.size(); ++index) {
            running.emplace_back([&, index] {
                const Work& work = works[index];
                work();
                together.arrive_and_wait();
                const auto start = Clock::now();
                double done = 0, elapsed = 0;
                while (elapsed < seconds) {
                    done += work();
                    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
                }
                rates[index] = done / elapsed;
            });
        }
    }
    return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace

double read_bandwidth(int threads, std::size_t bytes, double seconds) {
    check(threads, seconds);
    const std::size_t lines = bytes / sizeof(CacheLine) / static_cast<std::size_t>(threads);
    if (lines == 0) throw std::invalid_argument("too few bytes to read: each thread needs a cache line");
    Works works;
    for (int thread = 0; thread < threads; ++thread) {
        const auto part = std::make_shared<const std::vector<CacheLine>>(lines);
        works.emplace_back([part] {
            read_all(*part);
            return static_cast<double>(part->size() * sizeof(CacheLine));
        });
    }
    return rate(works, seconds);
}

double int8_peak(int threads, double seconds) {
    check(threads, seconds);
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
    return rate(Works(static_cast<std::size_t>(threads), wide ? int8_avx512 : int8_avx2), seconds);
}

double bf16_peak(int threads, double seconds) {
    check(threads, seconds);
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
    return rate(Works(static_cast<std::size_t>(threads), wide ? bf16_avx512 : float_avx2), seconds);
}

}  // namespace quern
