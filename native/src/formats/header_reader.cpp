#include "formats/header_reader.h"

#include <algorithm>

namespace quern {

std::string HeaderReader::read_text(uint64_t length) {
    require(length);
    std::string text(static_cast<size_t>(length), '\0');
    copy(std::as_writable_bytes(std::span(text)));
    return text;
}

void HeaderReader::skip(uint64_t bytes) {
    require(bytes);
    position_ += bytes;
}

void HeaderReader::copy(std::span<std::byte> out) {
    require(out.size());
    while (!out.empty()) {
        if (position_ < buffer_begin_ || position_ >= buffer_begin_ + buffer_.size()) {
            fill();
        }
        const auto from = static_cast<size_t>(position_ - buffer_begin_);
        const size_t count = std::min(out.size(), buffer_.size() - from);
        std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(from), count, out.begin());
        out = out.subspan(count);
        position_ += count;
    }
}

void HeaderReader::require(uint64_t bytes) const {
    if (bytes > remaining()) {
        throw damaged(path(), "its header needs " + std::to_string(bytes) + " bytes at byte " +
                                  std::to_string(position_) + ", and the file ends after " +
                                  std::to_string(file_.size()));
    }
}

void HeaderReader::fill() {
    constexpr uint64_t most = 1 << 16;
    buffer_.resize(static_cast<size_t>(std::min(remaining(), most)));
    buffer_begin_ = position_;
    file_.read(position_, buffer_);
}

}  // namespace quern
