#include "formats/tensor_type.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace quern {
namespace {

// Sizes of the block structs in ggml-common.h: 16-bit scales, then packed integers.
constexpr std::array<TensorTypeTraits, 12> all_traits{{
    {TensorType::F32, "F32", 1, 4},
    {TensorType::F16, "F16", 1, 2},
    {TensorType::Q4_0, "Q4_0", 32, 2 + 16},
    {TensorType::Q4_1, "Q4_1", 32, 2 + 2 + 16},
    {TensorType::Q5_0, "Q5_0", 32, 2 + 4 + 16},
    {TensorType::Q5_1, "Q5_1", 32, 2 + 2 + 4 + 16},
    {TensorType::Q8_0, "Q8_0", 32, 2 + 32},
    {TensorType::Q4_K, "Q4_K", 256, 2 + 2 + 12 + 128},
    {TensorType::Q5_K, "Q5_K", 256, 2 + 2 + 12 + 32 + 128},
    {TensorType::Q6_K, "Q6_K", 256, 128 + 64 + 16 + 2},
    {TensorType::IQ4_NL, "IQ4_NL", 32, 2 + 16},
    {TensorType::BF16, "BF16", 1, 2},
}};

}  // namespace

std::optional<TensorType> tensor_type(uint32_t number) {
    const auto has_number = [number](const auto& entry) {
        return static_cast<uint32_t>(entry.type) == number;
    };
    const auto* found = std::find_if(all_traits.begin(), all_traits.end(), has_number);
    return found == all_traits.end() ? std::nullopt : std::optional(found->type);
}

const TensorTypeTraits& traits(TensorType type) {
    for (const auto& entry : all_traits) {
        if (entry.type == type) {
            return entry;
        }
    }
    throw std::invalid_argument("not a tensor type");
}

}  // namespace quern
