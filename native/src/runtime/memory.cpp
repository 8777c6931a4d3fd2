#include "runtime/memory.h"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace quern {

Buffer::Buffer(size_t bytes, bool huge_pages) : bytes_(bytes) {
    if (bytes == 0) return;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(p);
    // Advice only: without huge pages it works as well, some percent slower.
    if (huge_pages) madvise(p, bytes, MADV_HUGEPAGE);
}

Buffer::~Buffer() {
    if (data_) munmap(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

}  // namespace quern
