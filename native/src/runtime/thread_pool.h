// Threads that share out the pieces of one computation after another.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace quern {

// `run` is called by one thread at a time, which takes part. The others spin for some tens of microseconds after a
// piece of work, because within a step the next one comes at once, and then sleep: the server's event loop needs the
// same cores. `run` waits only for threads that have begun to help: one whose core is taken away costs its help, no more.
class ThreadPool {
public:
    explicit ThreadPool(size_t threads);  // throws std::system_error where the system gives no thread
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    size_t threads() const { return workers_.size() + 1; }

    // Calls f(i) for every i below count, in any order, on any thread. `f` must not throw.
    template <class F>
    void run(size_t count, const F& f) {
        if (count <= 1 || workers_.empty()) {
            for (size_t i = 0; i < count; ++i) f(i);
            return;
        }
        share({[](const void* function, size_t i) { (*static_cast<const F*>(function))(i); }, &f, count});
    }

private:
    struct Job {
        void (*call)(const void*, size_t);
        const void* function;
        size_t count;
    };

    void stop();
    void share(const Job& job);
    void work(const Job& job);
    bool join(uint32_t gate);
    void worker();

    Job job_{};
    // Which job it is, whether helpers may still join, and how many have; see thread_pool.cpp.
    alignas(64) std::atomic<uint32_t> gate_{0};
    alignas(64) std::atomic<size_t> next_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::jthread> workers_;
};

}  // namespace quern
