#include "formats/tensor_info.h"

#include <algorithm>

namespace quern {

std::string shape_text(const std::vector<uint64_t>& shape) {
    std::string text = "[";
    for (const uint64_t size : shape) {
        text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    }
    return text + "]";
}

uint64_t byte_count(const std::string& path, const std::string& name, TensorType type,
                    const std::vector<uint64_t>& shape) {
    const auto wrong = [&](const std::string& what) {
        return damaged(path, "its tensor " + in_quotes(name) + " of shape " + shape_text(shape) + " " + what);
    };
    if (shape.empty() || shape.size() > 4) {
        throw wrong("has " + std::to_string(shape.size()) + " dimensions, not 1 to 4");
    }
    const uint64_t row = shape.back();
    if (row == 0 || row % block_elements(type) != 0) {
        throw wrong("has rows that aren't whole blocks of " + std::to_string(block_elements(type)) +
                    " elements (" + std::string(type_name(type)) + ")");
    }
    uint64_t bytes = block_bytes(type);
    const auto multiply = [&](uint64_t by) {
        if (by == 0 || __builtin_mul_overflow(bytes, by, &bytes)) {
            throw wrong("can't have that many elements");
        }
    };
    multiply(row / block_elements(type));
    std::for_each(shape.begin(), shape.end() - 1, multiply);
    return bytes;
}

void check_places(const InputFile& file, uint64_t begin, const std::vector<TensorInfo>& tensors) {
    std::vector<const TensorInfo*> in_order;
    in_order.reserve(tensors.size());
    for (const auto& tensor : tensors) {
        if (tensor.offset < begin || tensor.offset > file.size() ||
            tensor.bytes > file.size() - tensor.offset) {
            throw damaged(file.path(), "its tensor " + in_quotes(tensor.name) + " should be " +
                                           std::to_string(tensor.bytes) + " bytes at byte " +
                                           std::to_string(tensor.offset) +
                                           ", and the file's tensors lie between byte " +
                                           std::to_string(begin) + " and " + std::to_string(file.size()));
        }
        in_order.push_back(&tensor);
    }
    std::sort(in_order.begin(), in_order.end(),
              [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < in_order.size(); ++i) {
        if (in_order[i - 1]->offset + in_order[i - 1]->bytes > in_order[i]->offset) {
            throw damaged(file.path(), "its tensors " + in_quotes(in_order[i - 1]->name) + " and " +
                                           in_quotes(in_order[i]->name) + " overlap");
        }
    }
}

void add_tensors(const std::string& path, std::vector<TensorInfo> tensors, TensorMap& all) {
    for (auto& tensor : tensors) {
        std::string name = tensor.name;
        if (!all.try_emplace(std::move(name), std::move(tensor)).second) {
            throw damaged(path, "it has two tensors " + in_quotes(tensor.name));
        }
    }
}

}  // namespace quern
