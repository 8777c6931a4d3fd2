// Reads a file's header from front to back.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "formats/input_file.h"

namespace quern {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

// A buffered cursor. Every read is checked against the file's end before memory is taken for it; what doesn't
// fit throws FileError.
class HeaderReader {
public:
    explicit HeaderReader(const InputFile& file) : file_(file) {}

    const std::string& path() const { return file_.path(); }
    uint64_t position() const { return position_; }
    uint64_t remaining() const { return file_.size() - position_; }

    template <typename T>
    T read() {
        static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
        T value;
        copy(std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }

    std::string read_text(uint64_t length);
    void skip(uint64_t bytes);

private:
    void copy(std::span<std::byte> out);
    void require(uint64_t bytes) const;
    void fill();

    const InputFile& file_;
    uint64_t position_ = 0;
    uint64_t buffer_begin_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace quern
