// From a file's rows of blocks to panels of 16 outputs, and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/tensor_type.h"
#include "kernels/layout.h"

namespace quern {

// What float weights are quantised to while loading: s8 (8.5 bits per weight) or a4 (5 bits).
enum class FloatWeights : uint8_t { q8, q4 };

// The internal format of a file's type: the one with the same codes and scales.
WeightFormat packed_format(TensorType type, FloatWeights floats);

// Packs `rows` (at most 16) rows of `columns` values, each row_bytes after the other, into a zeroed panel of
// panel_bytes(format, columns) bytes. False where a float is infinite or not a number.
bool pack_panel(TensorType type, WeightFormat format, const uint8_t* rows_data, size_t row_bytes, size_t rows,
                size_t columns, uint8_t* panel);

// Row `row` of a packed matrix as floats.
void unpack_row(const WeightView& weights, size_t row, float* out);

}  // namespace quern
