// safetensors files: the format section of the README of huggingface/safetensors.
#pragma once

#include <cstddef>
#include <vector>

#include "formats/tensor_info.h"

namespace quern {

// The tensors of one file, under the names they have there; `file_index` goes into TensorInfo::file. Reads
// the header only. Throws FileError.
std::vector<TensorInfo> read_safetensors(const InputFile& file, size_t file_index);

}  // namespace quern
