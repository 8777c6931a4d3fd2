// Large zeroed memory, straight from the operating system.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quern {

// Pages appear as they are touched, so a buffer costs only what is used of it. Huge pages are asked for where all of
// it will be used.
class Buffer {
public:
    Buffer() = default;
    Buffer(size_t bytes, bool huge_pages);  // throws std::bad_alloc
    ~Buffer();
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

private:
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace quern
