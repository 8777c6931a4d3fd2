// Single kernels for Python: tests compare them with NumPy, benchmarks time them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor_type.h"
#include "model/kv_cache.h"
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

const Kernels& kernels_called(const std::string& isa) {
    if (const Kernels* kernels = find_kernels(isa)) return *kernels;
    throw std::invalid_argument("This CPU cannot run the kernels called " + isa + ".");
}

std::vector<std::string> kernel_sets() {
    std::vector<std::string> names;
    for (const char* name : {"avx512_bf16", "avx512_vnni", "avx_vnni", "avx2"}) {
        if (find_kernels(name)) names.emplace_back(name);
    }
    return names;
}

template <class T, size_t dimensions>
using Input = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> to_numpy(const std::vector<T>& values, const std::vector<size_t>& shape) {
    auto copy = std::make_unique<T[]>(values.size());
    std::copy(values.begin(), values.end(), copy.get());
    nb::capsule owner(copy.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return {copy.release(), shape.size(), shape.data(), owner};
}

// `rows` as a GGUF file has them: [outputs, bytes of a row].
PackedMatrix packed(TensorType type, const Input<uint8_t, 2>& rows) {
    const size_t row_bytes = rows.shape(1), columns = row_bytes / block_bytes(type) * block_elements(type);
    if (row_bytes % block_bytes(type) != 0 || columns == 0 || columns % block_columns != 0) {
        throw std::invalid_argument("A row of weights is a multiple of 32 values, in whole blocks.");
    }
    const WeightFormat format = packed_format(type, FloatWeights::q8);
    PackedMatrix matrix(format, rows.shape(0), columns);
    for (size_t panel = 0; panel < matrix.view().panels(); ++panel) {
        const size_t first = panel * panel_rows, count = std::min(panel_rows, rows.shape(0) - first);
        pack_panel(type, format, rows.data() + first * row_bytes, row_bytes, count, columns, matrix.panel(panel));
    }
    return matrix;
}

nb::ndarray<nb::numpy, float> unpack(const std::string& weight_type, const Input<uint8_t, 2>& rows) {
    const PackedMatrix matrix = packed(type_called(weight_type), rows);
    const WeightView view = matrix.view();
    std::vector<float> values(view.rows * view.columns);
    for (size_t row = 0; row < view.rows; ++row) unpack_row(view, row, values.data() + row * view.columns);
    return to_numpy(values, {view.rows, view.columns});
}

QuantisedRows quantised(const Kernels& kernels, const Input<float, 2>& x, Granularity granularity) {
    if (x.shape(1) % block_columns != 0) throw std::invalid_argument("A row is a multiple of 32 values.");
    QuantisedRows rows;
    uint8_t* tiles = rows.resize(x.shape(0), x.shape(1));
    for (size_t tile = 0; tile < rows.tiles(); ++tile) {
        kernels.quantise({x.data(), x.shape(0), x.shape(1)}, granularity, tile, tiles);
    }
    return rows;
}

// Codes and scales, taken out of their tiles.
nb::tuple quantise(const Input<float, 2>& x, const std::string& isa, bool coarse) {
    const QuantisedRows quantised_rows =
        quantised(kernels_called(isa), x, coarse ? Granularity::coarse : Granularity::fine);
    const auto [tiles, rows, columns] = quantised_rows.view();
    const TileLayout layout{columns};
    const size_t blocks = columns / block_columns;
    std::vector<int8_t> codes;
    std::vector<float> scales;
    for (size_t i = 0; i < rows * blocks; ++i) {
        const size_t row = i / blocks % tile_rows, block = i % blocks;
        const uint8_t* tile = tiles + i / blocks / tile_rows * layout.bytes();
        const auto* codes_at = reinterpret_cast<const int8_t*>(tile) + (block * tile_rows + row) * block_columns;
        const size_t place = (block / superblock_blocks * tile_rows + row) * superblock_blocks;
        codes.insert(codes.end(), codes_at, codes_at + block_columns);
        scales.push_back(reinterpret_cast<const float*>(tile + layout.scales())[place + block % superblock_blocks]);
    }
    return nb::make_tuple(to_numpy(codes, {rows, columns}), to_numpy(scales, {rows, blocks}));
}

void check_widths(const WeightView& weights, const Input<float, 2>& x) {
    if (x.shape(1) != weights.columns) throw std::invalid_argument("x has other columns than the weights.");
}

nb::ndarray<nb::numpy, float> multiply(const std::string& weight_type, const Input<uint8_t, 2>& weights,
                                       const Input<float, 2>& x, const std::string& isa, size_t threads, bool coarse,
                                       const std::optional<Input<float, 1>>& bias,
                                       const std::optional<Input<float, 2>>& add_to) {
    const PackedMatrix matrix = packed(type_called(weight_type), weights);
    const WeightView view = matrix.view();
    check_widths(view, x);
    if (bias && bias->size() != view.rows) throw std::invalid_argument("There is one bias for each output.");
    std::vector<float> out(x.shape(0) * view.rows);
    if (add_to) {
        if (add_to->size() != out.size()) throw std::invalid_argument("add_to has another shape than the result.");
        std::copy_n(add_to->data(), out.size(), out.begin());
    }
    ThreadPool pool(threads);
    const Compute compute{kernels_called(isa), pool};
    const QuantisedRows rows =
        quantised(compute.kernels, x, coarse ? Granularity::coarse : granularity_for({view}));
    const Epilogue epilogue = add_to ? Epilogue::add : Epilogue::store;
    multiply_all(compute, rows.view(), {{view, {out.data(), view.rows, epilogue, bias ? bias->data() : nullptr}}});
    return to_numpy(out, {x.shape(0), view.rows});
}

nb::ndarray<nb::numpy, float> gated(const std::string& weight_type, const Input<uint8_t, 2>& gate,
                                    const Input<uint8_t, 2>& up, const Input<float, 2>& x, const std::string& isa,
                                    size_t threads) {
    const TensorType type = type_called(weight_type);
    const PackedMatrix gate_matrix = packed(type, gate), up_matrix = packed(type, up);
    const WeightView view = gate_matrix.view();
    check_widths(view, x);
    check_widths(up_matrix.view(), x);
    if (up_matrix.view().rows != view.rows) throw std::invalid_argument("gate and up have different outputs.");
    ThreadPool pool(threads);
    const Compute compute{kernels_called(isa), pool};
    const QuantisedRows rows = quantised(compute.kernels, x, granularity_for({view}));
    std::vector<float> out(x.shape(0) * view.rows);
    multiply_gated(compute, rows.view(), view, up_matrix.view(), out.data());
    return to_numpy(out, {x.shape(0), view.rows});
}

// Puts [context, kv_heads, dim] keys and values into the blocks of one sequence.
KvCache filled_cache(const Input<float, 3>& keys, const Input<float, 3>& values, const std::vector<int32_t>& blocks,
                     KvType type) {
    ModelConfig config;
    config.layers = 1;
    config.kv_heads = static_cast<uint32_t>(keys.shape(1));
    config.head_dim = static_cast<uint32_t>(keys.shape(2));
    KvCache cache(config, type, static_cast<size_t>(*std::max_element(blocks.begin(), blocks.end())) + 1);
    for (size_t token = 0; token < keys.shape(0); ++token) {
        const auto block = static_cast<size_t>(blocks[token / block_tokens]);
        for (size_t head = 0; head < config.kv_heads; ++head) {
            const size_t at = (token * config.kv_heads + head) * config.head_dim;
            cache.put(0, block, token % block_tokens, head, keys.data() + at, values.data() + at);
        }
    }
    return cache;
}

void check_attention(const Input<float, 3>& queries, const Input<float, 3>& keys, const Input<float, 3>& values,
                     const std::vector<int32_t>& blocks, size_t position) {
    const size_t context = keys.shape(0), kv_heads = keys.shape(1), dim = keys.shape(2);
    bool right = queries.shape(0) > 0 && kv_heads > 0 && queries.shape(1) % kv_heads == 0;
    right = right && dim > 0 && dim % 32 == 0 && dim <= 256 && queries.shape(2) == dim;
    right = right && queries.shape(1) / kv_heads <= query_tile_rows;
    right = right && values.shape(0) == context && values.shape(1) == kv_heads && values.shape(2) == dim;
    right = right && position + queries.shape(0) <= context && context <= blocks.size() * block_tokens;
    right = right && std::all_of(blocks.begin(), blocks.end(), [](int32_t block) { return block >= 0; });
    if (!right) throw std::invalid_argument("The shapes of queries, keys, values and blocks don't fit together.");
}

// As model/forward.cpp does it for one item of a batch.
nb::ndarray<nb::numpy, float> attend(const Input<float, 3>& queries, const Input<float, 3>& keys,
                                     const Input<float, 3>& values, const std::vector<int32_t>& blocks,
                                     size_t position, const std::string& isa, bool int8) {
    check_attention(queries, keys, values, blocks, position);
    const Kernels& kernels = kernels_called(isa);
    const KvCache cache = filled_cache(keys, values, blocks, int8 ? KvType::int8 : KvType::bf16);
    const size_t tokens = queries.shape(0), dim = queries.shape(2), width = queries.shape(1) * dim;
    const size_t kv_heads = keys.shape(1), group = queries.shape(1) / kv_heads, most = query_tile_rows / group;
    std::vector<uint16_t> scaled(tokens * width);
    kernels.to_bfloat16(queries.data(), scaled.size(), 1.0F / std::sqrt(static_cast<float>(dim)), scaled.data());
    std::vector<float> out(tokens * width);
    for (size_t first = 0; first < tokens; first += most) {
        for (size_t head = 0; head < kv_heads; ++head) {
            const size_t offset = first * width + head * group * dim;
            kernels.attend({
                .layout = cache.layout(),
                .cache = cache.head(0, head),
                .block_stride = cache.block_stride(),
                .blocks = blocks.data(),
                .queries = scaled.data() + offset,
                .query_stride = width,
                .output = out.data() + offset,
                .output_stride = width,
                .rows = std::min(most, tokens - first) * group,
                .group = group,
                .position = position + first,
            });
        }
    }
    return to_numpy(out, {tokens, queries.shape(1), dim});
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
    m.def("kernel_sets", &kernel_sets);
    m.def("unpack", &unpack, "weight_type"_a, "rows"_a);
    m.def("quantise", &quantise, "x"_a, nb::kw_only(), "isa"_a, "coarse"_a = false);
    m.def("multiply", &multiply, "weight_type"_a, "weights"_a, "x"_a, nb::kw_only(), "isa"_a, "threads"_a = 1,
          "coarse"_a = false, "bias"_a = nb::none(), "add_to"_a = nb::none());
    m.def("multiply_gated", &gated, "weight_type"_a, "gate"_a, "up"_a, "x"_a, nb::kw_only(), "isa"_a, "threads"_a = 1);
    m.def("attend", &attend, "queries"_a, "keys"_a, "values"_a, nb::kw_only(), "blocks"_a, "position"_a, "isa"_a,
          "int8"_a = false);
    m.def("bench_gemm", &bench_gemm, "weight_type"_a, "tokens"_a, "outputs"_a, "inputs"_a, "threads"_a, "seconds"_a);
}

}  // namespace quern
