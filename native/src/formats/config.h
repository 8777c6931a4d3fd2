// What a model file says about its network.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quern {

// RoPE scaled to longer contexts by YaRN (Peng et al. 2023, "YaRN: Efficient Context Window Extension").
struct Yarn {
    float factor = 1;
    uint32_t original_context = 0;  // tokens of context before the extension
    float beta_fast = 32;
    float beta_slow = 1;
    float attention_factor = 1;  // multiplies cosines and sines
};

struct ModelConfig {
    std::string architecture;  // as GGUF calls it: one of supported_architectures()
    uint32_t layers = 0;
    uint32_t hidden = 0;
    uint32_t heads = 0;
    uint32_t kv_heads = 0;  // divides heads
    uint32_t head_dim = 0;  // even, at most 256
    uint32_t ffn = 0;       // 0 where every layer has experts and the file doesn't say it
    uint32_t experts = 0;   // this and the next two are 0 for dense models
    uint32_t experts_used = 0;
    uint32_t expert_ffn = 0;
    uint32_t vocabulary = 0;
    uint32_t context_length = 0;  // with YaRN, at least factor * original_context
    float norm_epsilon = 0;
    float rope_base = 0;
    bool normalize_expert_weights = false;
    bool tied_embeddings = false;  // no output.weight: token_embd.weight is the output matrix, or none is needed
    std::optional<Yarn> yarn;

    bool has_experts() const { return architecture == "qwen3moe"; }
    bool has_attention_bias() const { return architecture == "qwen2"; }
    bool has_qk_norm() const { return !has_attention_bias(); }
};

// Names as in GGUF's general.architecture.
std::span<const std::string_view> supported_architectures();

// GGUF's name for an architecture, given that or Hugging Face's `model_type`; throws FileError for any other.
std::string known_architecture(const std::string& path, std::string_view name_in_file);

// YaRN's own factor for the attention, used where a file gives none: 0.1 ln(factor) + 1.
float yarn_attention_factor(float factor);

// Completes values that follow from others, and refuses those out of any reasonable range or at odds with
// each other; throws FileError.
void finish_config(ModelConfig& config, const std::string& path);

}  // namespace quern
