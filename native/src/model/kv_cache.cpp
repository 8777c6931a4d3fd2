#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "formats/half.h"

namespace quern {
namespace {

// Places of element i of the token in `slot`, see KvLayout.
size_t key_place(size_t slot, size_t i, size_t dim) {
    return slot / 16 * 16 * dim + i / 2 * 32 + slot % 16 * 2 + i % 2;
}
size_t value_place(size_t slot, size_t i, size_t dim) { return slot / 2 * 2 * dim + i * 2 + slot % 2; }

// A block is reused by other sequences, which multiply what is left in its unused slots by zero: that must give zero, so
// nothing infinite is stored, not by rounding to bfloat16 either.
float finite(float x) { return std::fabs(x) <= 3e38F ? x : 0.0F; }

float inverse_scale(const float* x, size_t dim, float& scale) {
    float largest = 0.0F;
    for (size_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(finite(x[i])));
    scale = largest / 127.0F;
    return largest > 0.0F ? 127.0F / largest : 0.0F;
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, KvType type, size_t blocks)
    : layout_{type, config.head_dim}, layers_(config.layers), kv_heads_(config.kv_heads), blocks_(blocks),
      buffer_(layers_ * blocks * kv_heads_ * layout_.bytes(), false), memory_(buffer_.data()) {}

void KvCache::put(size_t layer, size_t block, size_t slot, size_t kv_head, const float* key, const float* value) {
    const size_t dim = layout_.dim;
    uint8_t* at = part(layer, block, kv_head);
    if (layout_.type == KvType::bf16) {
        auto* keys = reinterpret_cast<uint16_t*>(at);
        auto* values = reinterpret_cast<uint16_t*>(at + layout_.values());
        for (size_t i = 0; i < dim; ++i) {
            keys[key_place(slot, i, dim)] = float_to_bfloat16(finite(key[i]));
            values[value_place(slot, i, dim)] = float_to_bfloat16(finite(value[i]));
        }
        return;
    }
    auto* keys = reinterpret_cast<int8_t*>(at);
    auto* values = reinterpret_cast<int8_t*>(at + layout_.values());
    auto* scales = reinterpret_cast<float*>(at + layout_.scales());
    const float key_factor = inverse_scale(key, dim, scales[slot]);
    const float value_factor = inverse_scale(value, dim, scales[block_tokens + slot]);
    for (size_t i = 0; i < dim; ++i) {
        keys[key_place(slot, i, dim)] = static_cast<int8_t>(std::lrintf(finite(key[i]) * key_factor));
        values[value_place(slot, i, dim)] = static_cast<int8_t>(std::lrintf(finite(value[i]) * value_factor));
    }
}

}  // namespace quern
