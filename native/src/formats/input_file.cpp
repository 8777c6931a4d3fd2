#include "formats/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace quern {
namespace {

FileError unreadable(const std::string& path, int error) {
    return FileError("The model file " + path + " can't be read: " + std::generic_category().message(error) +
                     ". Check the path and the file's permissions.");
}

void close_file(int descriptor) {
    if (descriptor >= 0) {
        ::close(descriptor);
    }
}

}  // namespace

InputFile::InputFile(const std::filesystem::path& path) : path_(path.string()) {
    // O_NONBLOCK: opening a named pipe would wait for a writer.
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) {
        throw unreadable(path_, errno);
    }
    struct stat status{};
    const int error = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
    if (error != 0 || !S_ISREG(status.st_mode)) {
        close_file(descriptor_);
        throw unreadable(path_, error != 0 ? error : (S_ISDIR(status.st_mode) ? EISDIR : EINVAL));
    }
    size_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() {
    close_file(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
    if (this != &other) {
        close_file(descriptor_);
        path_ = std::move(other.path_);
        size_ = other.size_;
        descriptor_ = std::exchange(other.descriptor_, -1);
    }
    return *this;
}

void InputFile::read(uint64_t offset, std::span<std::byte> out) const {
    if (offset > size_ || out.size() > size_ - offset) {
        throw damaged(path_, "it ends after " + std::to_string(size_) + " bytes, and " +
                                 std::to_string(out.size()) + " are expected at byte " +
                                 std::to_string(offset));
    }
    while (!out.empty()) {
        const ssize_t count = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
        if (count < 0 && errno != EINTR) {
            throw unreadable(path_, errno);
        }
        if (count == 0) {
            throw damaged(path_, "it became shorter while it was read");
        }
        if (count > 0) {
            offset += static_cast<uint64_t>(count);
            out = out.subspan(static_cast<size_t>(count));
        }
    }
}

std::string read_text(const std::filesystem::path& path, uint64_t most_bytes) {
    const InputFile file(path);
    if (file.size() > most_bytes) {
        throw damaged(file.path(),
                      "it has " + std::to_string(file.size()) + " bytes, far more than such a file needs");
    }
    std::string text(static_cast<size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return text;
}

}  // namespace quern
