// The paged KV cache: blocks of 32 tokens, owned by number; who owns which is Python's decision.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/config.h"
#include "kernels/kernels.h"
#include "runtime/memory.h"

namespace quern {

class KvCache {
public:
    KvCache(const ModelConfig& config, KvType type, size_t blocks);

    size_t blocks() const { return blocks_; }
    const KvLayout& layout() const { return layout_; }
    size_t bytes_per_token() const { return layers_ * kv_heads_ * layout_.bytes() / block_tokens; }

    // Keys and values of one layer lie as [block][kv_head] parts, see KvLayout.
    const uint8_t* head(size_t layer, size_t kv_head) const { return part(layer, 0, kv_head); }
    size_t block_stride() const { return kv_heads_ * layout_.bytes(); }

    // Stores one token's key and value, [head_dim] floats each.
    void put(size_t layer, size_t block, size_t slot, size_t kv_head, const float* key, const float* value);

private:
    uint8_t* part(size_t layer, size_t block, size_t kv_head) const {
        return memory_ + ((layer * blocks_ + block) * kv_heads_ + kv_head) * layout_.bytes();
    }

    KvLayout layout_;
    size_t layers_;
    size_t kv_heads_;
    size_t blocks_;
    Buffer buffer_;
    uint8_t* memory_;
};

}  // namespace quern
