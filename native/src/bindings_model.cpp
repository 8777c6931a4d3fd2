// The model for Python; `_native.pyi` documents it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>

#include "model/model.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quern {
namespace {

KvType kv_type_called(const std::string& name) {
    if (name == "bf16") return KvType::bf16;
    if (name == "int8") return KvType::int8;
    throw std::invalid_argument("kv_type is bf16 or int8, not " + name + ".");
}

FloatWeights float_weights_called(const std::string& name) {
    if (name == "q8") return FloatWeights::q8;
    if (name == "q4") return FloatWeights::q4;
    throw std::invalid_argument("quantise is q8 or q4, not " + name + ".");
}

void construct(Model* place, const std::string& path, size_t threads, size_t kv_tokens, const std::string& kv_type,
               const std::string& quantise, const std::string& isa, const nb::object& progress) {
    if (threads < 1 || threads > 1024) throw std::invalid_argument("threads is 1 to 1024.");
    if (kv_tokens < 1 || kv_tokens > size_t{1} << 31) throw std::invalid_argument("kv_tokens is 1 to 2^31.");
    const ModelOptions options{threads, kv_tokens, kv_type_called(kv_type), float_weights_called(quantise), isa};
    const LoadProgress report = [&](float share) {
        const nb::gil_scoped_acquire held;
        if (!progress.is_none()) progress(share);
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    };
    const nb::gil_scoped_release released;
    new (place) Model(path, options, report);
}

// Items are copied while the GIL is held; their samplers and embeddings stay owned by Python, whose caller holds the
// items meanwhile.
std::vector<std::vector<Sampled>> forward(Model& model, std::vector<Item> items) {
    const nb::gil_scoped_release released;
    return model.forward(std::move(items));
}

nb::list logits(Model& model, const std::vector<Item>& items) {
    const size_t vocabulary = model.config().vocabulary;
    const float* values = nullptr;
    {
        const nb::gil_scoped_release released;
        values = model.logits(items);
    }
    nb::list arrays;
    for (const Item& item : items) {
        const size_t count = item.samples * vocabulary;
        auto copy = std::make_unique<float[]>(count);
        std::copy(values, values + count, copy.get());
        values += count;
        nb::capsule owner(copy.get(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
        const size_t shape[2] = {item.samples, vocabulary};
        arrays.append(nb::ndarray<nb::numpy, float>(copy.release(), 2, shape, owner));
    }
    return arrays;
}

}  // namespace

void bind_model(nb::module_& m) {
    m.attr("BLOCK_TOKENS") = block_tokens;
    nb::list architectures;
    for (const std::string_view name : supported_architectures()) architectures.append(nb::str(name.data(), name.size()));
    m.attr("ARCHITECTURES") = nb::tuple(architectures);
    m.def("instruction_set", []() -> nb::object {
        const Kernels* kernels = find_kernels("");
        return kernels ? nb::object(nb::str(kernels->name.data(), kernels->name.size())) : nb::none();
    });

    nb::class_<Embedding>(m, "Embedding").def(nb::init<>()).def_prop_ro("values", [](const Embedding& embedding) {
        return nb::bytes(embedding.values.data(), embedding.values.size() * sizeof(float));
    });

    nb::class_<Item>(m, "Item")
        .def(
            "__init__",
            [](Item* place, std::vector<int32_t> tokens, int64_t position, std::vector<int32_t> blocks,
               Sampler* sampler, size_t samples, Embedding* embedding) {
                if (position < 0) throw std::invalid_argument("An item's position is 0 or more.");
                new (place) Item{std::move(tokens), static_cast<size_t>(position), std::move(blocks), sampler,
                                 samples, embedding};
            },
            "tokens"_a, "position"_a, "blocks"_a, "sampler"_a = nb::none(), "samples"_a = 1,
            "embedding"_a = nb::none(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 7>());

    nb::class_<Model>(m, "Model")
        .def("__init__", &construct, "path"_a, nb::kw_only(), "threads"_a, "kv_tokens"_a, "kv_type"_a = "bf16",
             "quantise"_a = "q8", "isa"_a = "", "progress"_a = nb::none())
        .def_prop_ro("architecture", [](const Model& model) { return model.config().architecture; })
        .def_prop_ro("context_length", [](const Model& model) { return model.config().context_length; })
        .def_prop_ro("embedding_length", [](const Model& model) { return model.config().hidden; })
        .def_prop_ro("vocabulary_size", [](const Model& model) { return model.config().vocabulary; })
        .def_prop_ro("kv_blocks", [](const Model& model) { return model.cache().blocks(); })
        .def_prop_ro("kv_bytes_per_token", [](const Model& model) { return model.cache().bytes_per_token(); })
        .def_prop_ro("weight_bytes", &Model::weight_bytes)
        .def_prop_ro("isa", [](const Model& model) { return std::string(model.kernels().name); })
        .def("forward", &forward, "items"_a)
        .def("logits", &logits, "items"_a);
}

}  // namespace quern
