// Stored blocks to floats, to the last bit what ggml's dequantize_row_* functions give (ggml-quants.c).
#pragma once

#include <cstddef>

#include "formats/tensor_type.h"

namespace quern {

// `elements` is a multiple of the type's block; `blocks` holds elements / block_elements(type) blocks of
// block_bytes(type) bytes, at any address; `out` has room for `elements` floats.
void dequantize(TensorType type, const std::byte* blocks, size_t elements, float* out);

}  // namespace quern
