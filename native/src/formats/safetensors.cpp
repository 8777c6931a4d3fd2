#include "formats/safetensors.h"

#include <utility>

#include "formats/header_reader.h"
#include "formats/json.h"

namespace quern {
namespace {

constexpr uint64_t longest_header = 100'000'000;  // as in the reference implementation

FileError wrong_entry(const std::string& path, const std::string& name, const char* what) {
    return damaged(path, "the header's entry for tensor " + in_quotes(name) + " has no " + what);
}

TensorType dtype(const std::string& path, const std::string& name, const Json& entry) {
    const Json* value = entry.find("dtype");
    if (value == nullptr || value->text() == nullptr) {
        throw wrong_entry(path, name, "dtype");
    }
    for (const TensorType type : {TensorType::BF16, TensorType::F16, TensorType::F32}) {
        if (*value->text() == type_name(type)) {
            return type;
        }
    }
    throw unsupported(path, "its tensor " + in_quotes(name) + " is of type " + in_quotes(*value->text()) +
                                "; supported are BF16, F16 and F32");
}

std::vector<uint64_t> natural_numbers(const std::string& path, const std::string& name, const Json& entry,
                                      const char* key) {
    const Json* value = entry.find(key);
    if (value == nullptr || value->array() == nullptr) {
        throw wrong_entry(path, name, key);
    }
    std::vector<uint64_t> numbers;
    for (const Json& item : *value->array()) {
        if (item.integer() == nullptr || *item.integer() < 0) {
            throw wrong_entry(path, name, key);
        }
        numbers.push_back(static_cast<uint64_t>(*item.integer()));
    }
    return numbers;
}

TensorInfo tensor_info(const std::string& path, const std::string& name, const Json& entry,
                       uint64_t data_begin) {
    TensorInfo tensor;
    tensor.name = name;
    tensor.type = dtype(path, name, entry);
    tensor.shape = natural_numbers(path, name, entry, "shape");
    tensor.bytes = byte_count(path, name, tensor.type, tensor.shape);
    const auto offsets = natural_numbers(path, name, entry, "data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] - offsets[0] != tensor.bytes) {
        throw damaged(path, "the data_offsets of its tensor " + in_quotes(name) + " don't fit its shape " +
                                shape_text(tensor.shape));
    }
    tensor.offset = data_begin + offsets[0];  // both below 2^63
    return tensor;
}

}  // namespace

std::vector<TensorInfo> read_safetensors(const InputFile& file, size_t file_index) {
    HeaderReader reader(file);
    const auto length = reader.read<uint64_t>();
    if (length > longest_header) {
        throw damaged(file.path(), "its header can't be " + std::to_string(length) + " bytes long");
    }
    Json header;
    try {
        header = parse_json(reader.read_text(length));
    } catch (const JsonError& error) {
        throw damaged(file.path(), std::string("its header is no JSON: there is ") + error.what());
    }
    if (header.object() == nullptr) {
        throw damaged(file.path(), "its header is no JSON object");
    }
    std::vector<TensorInfo> tensors;
    for (const auto& [name, entry] : *header.object()) {
        if (name != "__metadata__") {
            tensors.push_back(tensor_info(file.path(), name, entry, reader.position()));
            tensors.back().file = file_index;
        }
    }
    check_places(file, reader.position(), tensors);
    return tensors;
}

}  // namespace quern
