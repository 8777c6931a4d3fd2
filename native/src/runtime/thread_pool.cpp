#include "runtime/thread_pool.h"

#include <immintrin.h>

namespace quern {
namespace {

constexpr int spins_before_sleep = 4000;
constexpr int spins_before_yield = 20000;

// The gate's bits: helpers at work, whether more may join, and the number of the job.
constexpr uint32_t one_helper = 1;
constexpr uint32_t open_bit = 1U << 11;
constexpr uint32_t one_job = 1U << 12;
constexpr uint32_t helpers_mask = open_bit - 1;

uint32_t job_number(uint32_t gate) { return gate / one_job; }

}  // namespace

ThreadPool::ThreadPool(size_t threads) {
    try {
        for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stopping_ = true;
    gate_.fetch_add(one_job);
    gate_.notify_all();
}

void ThreadPool::share(const Job& job) {
    // Nobody reads the last job any more: its gate is closed and its helpers have left.
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    gate_.fetch_add(one_job + open_bit, std::memory_order_release);
    gate_.notify_all();
    work(job);
    gate_.fetch_sub(open_bit, std::memory_order_acq_rel);
    for (int spins = 0; (gate_.load(std::memory_order_acquire) & helpers_mask) != 0;) {
        // A helper that was interrupted in its piece gets our core.
        if (++spins < spins_before_yield) {
            _mm_pause();
        } else {
            std::this_thread::yield();
        }
    }
}

void ThreadPool::work(const Job& job) {
    for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.call(job.function, i);
}

bool ThreadPool::join(uint32_t gate) {
    while (gate & open_bit) {
        if (gate_.compare_exchange_weak(gate, gate + one_helper, std::memory_order_acq_rel)) return true;
    }
    return false;
}

void ThreadPool::worker() {
    uint32_t seen = 0;
    while (!stopping_) {
        uint32_t gate = gate_.load(std::memory_order_acquire);
        for (int spins = 0; job_number(gate) == seen; gate = gate_.load(std::memory_order_acquire)) {
            if (++spins < spins_before_sleep) {
                _mm_pause();
            } else {
                gate_.wait(gate, std::memory_order_acquire);
            }
        }
        seen = job_number(gate);
        if (join(gate)) {
            work(job_);
            gate_.fetch_sub(one_helper, std::memory_order_release);
        }
    }
}

}  // namespace quern
