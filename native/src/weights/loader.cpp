#include "weights/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <span>
#include <thread>

#include "formats/dequantize.h"
#include "formats/file_error.h"

namespace quern {
namespace {

constexpr size_t panels_per_job = 16;

}  // namespace

PackedMatrix Loader::matrix(const std::string& name, size_t expert) {
    const TensorInfo& tensor = file_.at(name);
    const size_t columns = tensor.shape.back(), rows = tensor.shape[tensor.shape.size() - 2];
    if (columns % block_columns != 0) {
        throw FileError(file_.path + ": the rows of " + name + " have " + std::to_string(columns) +
                        " values, and Quern's kernels need a multiple of 32. Use the llamacpp engine for this model.");
    }
    const uint64_t row_bytes = columns / block_elements(tensor.type) * block_bytes(tensor.type);
    PackedMatrix matrix(packed_format(tensor.type, floats_), rows, columns);
    const WeightFormat format = matrix.view().format;
    for (size_t row = 0; row < rows; row += panels_per_job * panel_rows) {
        const size_t count = std::min(rows - row, panels_per_job * panel_rows);
        const uint64_t offset = (expert * rows + row) * row_bytes;
        jobs_.push_back({&tensor, offset, count, columns, format, matrix.panel(row / panel_rows)});
    }
    return matrix;
}

std::vector<float> Loader::floats(const std::string& name) const {
    const TensorInfo& tensor = file_.at(name);
    std::vector<std::byte> raw(tensor.bytes);
    file_.read(tensor, 0, raw);
    std::vector<float> values(tensor.elements());
    dequantize(tensor.type, raw.data(), values.size(), values.data());
    return values;
}

void Loader::load(const Job& job, std::vector<std::byte>& scratch) const {
    const size_t row_bytes = job.columns / block_elements(job.tensor->type) * block_bytes(job.tensor->type);
    scratch.resize(panel_rows * row_bytes);
    for (size_t row = 0; row < job.rows; row += panel_rows) {
        const size_t count = std::min(job.rows - row, panel_rows);
        file_.read(*job.tensor, job.offset + row * row_bytes, std::span(scratch).first(count * row_bytes));
        const bool sound =
            pack_panel(job.tensor->type, job.format, reinterpret_cast<const uint8_t*>(scratch.data()), row_bytes,
                       count, job.columns, job.panel + row / panel_rows * panel_bytes(job.format, job.columns));
        if (!sound) {
            throw FileError(file_.path + ": " + job.tensor->name + " has weights that are infinite or no numbers, so " +
                            "the file is damaged. Fetch it again.");
        }
    }
}

void Loader::run(size_t threads, const LoadProgress& progress) {
    std::atomic<size_t> next{0}, done{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::condition_variable finished;
    size_t working = 0;
    std::exception_ptr error;
    const auto stop_for = [&](std::exception_ptr why) {
        error = std::move(why);
        stop = true;
    };
    const auto work = [&] {
        try {
            std::vector<std::byte> scratch;
            for (size_t i; !stop && (i = next.fetch_add(1)) < jobs_.size(); ++done) load(jobs_[i], scratch);
        } catch (...) {
            const std::lock_guard lock(mutex);
            stop_for(std::current_exception());
        }
        const std::lock_guard lock(mutex);
        --working;
        finished.notify_one();
    };
    {
        std::vector<std::jthread> workers;
        std::unique_lock lock(mutex);
        try {
            for (; working < threads; ++working) workers.emplace_back(work);
            while (!finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return working == 0; })) {
                lock.unlock();
                progress(static_cast<float>(done) / static_cast<float>(jobs_.size()));
                lock.lock();
            }
        } catch (...) {
            if (!lock.owns_lock()) lock.lock();
            stop_for(std::current_exception());
        }
        lock.unlock();
    }
    if (error) std::rethrow_exception(error);
    progress(1.0F);
    jobs_.clear();
}

}  // namespace quern
