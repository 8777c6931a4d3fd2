// How a tensor's elements are stored: ggml's types, numbered as in a GGUF file (enum ggml_type in ggml.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

enum class TensorType : uint32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    BF16 = 30,
};

struct TensorTypeTraits {
    TensorType type;
    std::string_view name;
    size_t block_elements;  // elements in one block; the length of a row is a multiple of it
    size_t block_bytes;
};

// The type with this number in a GGUF file, or nothing where Quern doesn't read it.
std::optional<TensorType> tensor_type(uint32_t number);

const TensorTypeTraits& traits(TensorType type);

inline size_t block_elements(TensorType type) {
    return traits(type).block_elements;
}
inline size_t block_bytes(TensorType type) {
    return traits(type).block_bytes;
}
inline std::string_view type_name(TensorType type) {
    return traits(type).name;
}

}  // namespace quern
