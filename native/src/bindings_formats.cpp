// Model files for Python: tests and tools look into them this way. The engine uses quern::ModelFile itself.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "formats/check.h"
#include "formats/dequantize.h"
#include "formats/half.h"
#include "formats/model_file.h"

namespace nb = nanobind;

namespace quern {
namespace {

using Floats = nb::ndarray<nb::numpy, float>;

nb::dict config_dict(const ModelFile& model) {
    const ModelConfig& config = model.config;
    nb::dict dict;
    dict["architecture"] = config.architecture;
    dict["layers"] = config.layers;
    dict["hidden"] = config.hidden;
    dict["heads"] = config.heads;
    dict["kv_heads"] = config.kv_heads;
    dict["head_dim"] = config.head_dim;
    dict["ffn"] = config.ffn;
    dict["experts"] = config.experts;
    dict["experts_used"] = config.experts_used;
    dict["expert_ffn"] = config.expert_ffn;
    dict["vocabulary"] = config.vocabulary;
    dict["context_length"] = config.context_length;
    dict["norm_epsilon"] = config.norm_epsilon;
    dict["rope_base"] = config.rope_base;
    dict["normalize_expert_weights"] = config.normalize_expert_weights;
    dict["tied_embeddings"] = config.tied_embeddings;
    dict["yarn"] = nb::none();
    if (config.yarn) {
        nb::dict yarn;
        yarn["factor"] = config.yarn->factor;
        yarn["original_context"] = config.yarn->original_context;
        yarn["beta_fast"] = config.yarn->beta_fast;
        yarn["beta_slow"] = config.yarn->beta_slow;
        yarn["attention_factor"] = config.yarn->attention_factor;
        dict["yarn"] = yarn;
    }
    return dict;
}

// A name is bytes in the file; what isn't UTF-8 becomes U+FFFD.
nb::object name_text(const std::string& name) {
    return nb::steal(PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), "replace"));
}

nb::list tensor_list(const ModelFile& model) {
    nb::list list;
    for (const auto& [name, tensor] : model.tensors()) {
        const std::string type(type_name(tensor.type));
        list.append(nb::make_tuple(name_text(name), type, nb::tuple(nb::cast(tensor.shape))));
    }
    return list;
}

std::unique_ptr<float[]> dequantized(const ModelFile& model, const TensorInfo& tensor) {
    auto floats = std::make_unique_for_overwrite<float[]>(tensor.elements());
    constexpr uint64_t blocks_at_once = 4096;
    const uint64_t step = blocks_at_once * block_bytes(tensor.type);
    std::vector<std::byte> blocks(static_cast<size_t>(std::min(step, tensor.bytes)));
    float* out = floats.get();
    for (uint64_t offset = 0; offset < tensor.bytes; offset += step) {
        const auto part = std::span(blocks).first(std::min(step, tensor.bytes - offset));
        const size_t elements = part.size() / block_bytes(tensor.type) * block_elements(tensor.type);
        model.read(tensor, offset, part);
        dequantize(tensor.type, part.data(), elements, out);
        out += elements;
    }
    return floats;
}

Floats read_floats(const ModelFile& model, const std::string& name) {
    const TensorInfo& tensor = model.at(name);
    std::unique_ptr<float[]> floats;
    {
        const nb::gil_scoped_release released;
        floats = dequantized(model, tensor);
    }
    const std::vector<size_t> shape(tensor.shape.begin(), tensor.shape.end());
    float* data = floats.get();
    nb::capsule owner(
        data, [](void* array) noexcept { std::default_delete<float[]>()(static_cast<float*>(array)); });
    floats.release();  // the capsule deletes it from here on
    return Floats(data, shape.size(), shape.data(), owner);
}

}  // namespace

void bind_formats(nb::module_& module) {
    nb::exception<FileError>(module, "ModelFileError");
    nb::class_<ModelFile>(module, "ModelFile")
        .def_prop_ro("config", &config_dict)
        .def_prop_ro("tensors", &tensor_list)
        .def_prop_ro("size", &ModelFile::size)
        .def("check_tensors", [](const ModelFile& model) { check_tensors(model); })
        .def("read_floats", &read_floats, nb::arg("name"));
    module.def("open_model", [](const std::string& path) { return open_model(path); }, nb::arg("path"));
    module.def("float_to_half", &float_to_half, nb::arg("value"));
    module.def("float_to_bfloat16", &float_to_bfloat16, nb::arg("value"));
}

}  // namespace quern
