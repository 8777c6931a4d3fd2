// Single kernels for Python: tests compare them with NumPy, benchmarks time them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "formats/tensor_type.h"
#include "model/linear.h"
#include "weights/pack.h"
#include "weights/packed_matrix.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quern {
namespace {

TensorType type_called(const std::string& name) {
    for (uint32_t number = 0; number < 64; ++number) {
        if (const auto type = tensor_type(number); type && type_name(*type) == name) return *type;
    }
    throw std::invalid_argument("There is no tensor type called " + name + ".");
}

// Seconds that one multiplication takes: the median of as many as fit into `seconds`, over weights that together are
// larger than any cache.
double bench_gemm(const std::string& weight_type, size_t tokens, size_t outputs, size_t inputs, size_t threads,
                  double seconds) {
    using Clock = std::chrono::steady_clock;
    const nb::gil_scoped_release released;
    constexpr size_t beyond_caches = size_t{96} << 20;
    const WeightFormat format = packed_format(type_called(weight_type), FloatWeights::q8);
    std::vector<PackedMatrix> matrices;
    for (size_t bytes = 0; bytes < beyond_caches; bytes += matrices.back().bytes()) {
        matrices.emplace_back(format, outputs, inputs);
        std::fill_n(matrices.back().panel(0), matrices.back().bytes(), uint8_t{1});
    }
    ThreadPool pool(threads);
    const Compute compute{*find_kernels(""), pool};
    std::vector<float> in(tokens * inputs, 0.5F), out(tokens * outputs);
    QuantisedRows rows;
    uint8_t* tiles = rows.resize(tokens, inputs);
    for (size_t i = 0; i < rows.tiles(); ++i) {
        compute.kernels.quantise({in.data(), tokens, inputs}, granularity_for(format), i, tiles);
    }

    std::vector<double> times;
    const auto begin = Clock::now();
    for (size_t i = 0; std::chrono::duration<double>(Clock::now() - begin).count() < seconds || i < 3; ++i) {
        const auto start = Clock::now();
        multiply_all(compute, rows.view(), {{matrices[i % matrices.size()].view(), {out.data(), outputs}}});
        times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

}  // namespace

void bind_kernels(nb::module_& m) {
    m.def("bench_gemm", &bench_gemm, "weight_type"_a, "tokens"_a, "outputs"_a, "inputs"_a, "threads"_a, "seconds"_a);
}

}  // namespace quern
