// A weight matrix in its internal format.
#pragma once

#include <cstddef>

#include "kernels/layout.h"
#include "runtime/memory.h"

namespace quern {

class PackedMatrix {
public:
    PackedMatrix() = default;
    PackedMatrix(WeightFormat format, size_t rows, size_t columns)
        : format_(format), rows_(rows), columns_(columns),
          buffer_((rows + panel_rows - 1) / panel_rows * panel_bytes(format, columns), true) {}

    WeightView view() const { return {format_, rows_, columns_, buffer_.data()}; }
    uint8_t* panel(size_t index) { return buffer_.data() + index * panel_bytes(format_, columns_); }
    size_t bytes() const { return buffer_.bytes(); }

private:
    WeightFormat format_{};
    size_t rows_ = 0;
    size_t columns_ = 0;
    Buffer buffer_;
};

}  // namespace quern
