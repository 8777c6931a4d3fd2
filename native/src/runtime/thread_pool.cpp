#include "runtime/thread_pool.h"

#include <immintrin.h>

namespace quern {
namespace {

constexpr int spins_before_sleep = 4000;
constexpr int spins_before_yield = 20000;

}  // namespace

ThreadPool::ThreadPool(size_t threads) {
    for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
}

ThreadPool::~ThreadPool() {
    stopping_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
}

void ThreadPool::share(const Job& job) {
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(workers_.size(), std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    work(job);
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0;) {
        // A worker whose core was taken away gets ours.
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

void ThreadPool::worker() {
    uint32_t seen = 0;
    while (true) {
        for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen; ++spins) {
            if (spins < spins_before_sleep) {
                _mm_pause();
            } else {
                epoch_.wait(seen, std::memory_order_acquire);
            }
        }
        ++seen;
        if (stopping_) return;
        work(job_);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace quern
