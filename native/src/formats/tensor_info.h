// Where a tensor lies in a model's files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/input_file.h"
#include "formats/tensor_type.h"

namespace quern {

struct TensorInfo {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;  // slowest first: [length], [rows, columns] or [experts, rows, columns]
    size_t file = 0;              // index into the model's files
    uint64_t offset = 0;          // in that file
    uint64_t bytes = 0;

    uint64_t elements() const { return bytes / block_bytes(type) * block_elements(type); }
};

using TensorMap = std::map<std::string, TensorInfo, std::less<>>;

// "[rows, columns]", for messages.
std::string shape_text(const std::vector<uint64_t>& shape);

// The bytes that a tensor of this type and shape takes. Throws FileError where a dimension is 0, where there
// are none or more than 4, where the length of a row isn't a multiple of the type's block, or where the
// product overflows.
uint64_t byte_count(const std::string& path, const std::string& name, TensorType type,
                    const std::vector<uint64_t>& shape);

// All of one file's tensors must lie between `begin` and the file's end, and none may lie on another; throws
// FileError.
void check_places(const InputFile& file, uint64_t begin, const std::vector<TensorInfo>& tensors);

// Adds a file's tensors to the model's; throws FileError where one has a name that is already there.
void add_tensors(const std::string& path, std::vector<TensorInfo> tensors, TensorMap& all);

}  // namespace quern
