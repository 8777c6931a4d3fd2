// A file open for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "formats/file_error.h"

namespace quern {

// Reads with pread and not through a memory map: a file that shrinks while it is mapped kills the process
// (SIGBUS).
class InputFile {
public:
    // Opens a regular file; throws FileError.
    explicit InputFile(const std::filesystem::path& path);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile& operator=(InputFile&& other) noexcept;
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    const std::string& path() const { return path_; }

    // Bytes when the file was opened.
    uint64_t size() const { return size_; }

    // Fills all of `out` with the bytes from `offset` on; throws FileError if they are not there. Any thread
    // may call.
    void read(uint64_t offset, std::span<std::byte> out) const;

private:
    std::string path_;
    uint64_t size_ = 0;
    int descriptor_ = -1;
};

// The whole of a small file; throws FileError, also where it has more than `most_bytes`.
std::string read_text(const std::filesystem::path& path, uint64_t most_bytes);

}  // namespace quern
