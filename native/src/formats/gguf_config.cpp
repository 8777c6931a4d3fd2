#include "formats/gguf_config.h"

#include "formats/file_error.h"

namespace quern {
namespace {

// YaRN as the converters write it: yarn_attn_factor is Hugging Face's attention_factor, which replaces YaRN's
// own; attn_factor multiplies whichever it is.
std::optional<Yarn> rope_scaling(const GgufMetadata& metadata, const std::string& prefix,
                                 uint32_t context_length) {
    const std::string scaling = prefix + "rope.scaling.";
    const std::string type = metadata.text(scaling + "type").value_or("none");
    const float factor = metadata.number(scaling + "factor").value_or(1.0f);
    if (type == "none" || (type == "linear" && factor == 1.0f)) {
        return std::nullopt;
    }
    const bool extrapolates_fully = metadata.number(scaling + "yarn_ext_factor").value_or(1.0f) == 1.0f;
    const bool own_logarithm = metadata.number(scaling + "yarn_log_multiplier").value_or(0.0f) == 0.0f;
    if (type != "yarn" || !extrapolates_fully || !own_logarithm) {
        throw unsupported(metadata.path(),
                          "its RoPE scaling is of type " + in_quotes(type) +
                              " with settings that no Qwen model has; supported is plain YaRN");
    }
    Yarn yarn;
    yarn.factor = factor;
    yarn.original_context = metadata.count(scaling + "original_context_length").value_or(context_length);
    yarn.beta_fast = metadata.number(scaling + "yarn_beta_fast").value_or(yarn.beta_fast);
    yarn.beta_slow = metadata.number(scaling + "yarn_beta_slow").value_or(yarn.beta_slow);
    yarn.attention_factor =
        metadata.number(scaling + "yarn_attn_factor").value_or(yarn_attention_factor(factor)) *
        metadata.number(scaling + "attn_factor").value_or(1.0f);
    return yarn;
}

void set_experts(ModelConfig& config, const GgufMetadata& metadata, const std::string& prefix) {
    config.experts = metadata.needed_count(prefix + "expert_count");
    config.experts_used = metadata.needed_count(prefix + "expert_used_count");
    config.expert_ffn = metadata.needed_count(prefix + "expert_feed_forward_length");
    // No key says it: llama.cpp's qwen3moe.cpp calls build_moe_ffn with norm_w = true.
    config.normalize_expert_weights = true;
}

// Settings that would change the result, and that no Qwen model sets to anything else.
void check_head_sizes(const ModelConfig& config, const GgufMetadata& metadata, const std::string& prefix) {
    for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
        const uint32_t size = metadata.count(prefix + key).value_or(config.head_dim);
        if (size != config.head_dim) {
            throw unsupported(metadata.path(), "its " + std::string(key) + " is " + std::to_string(size) +
                                                   ", and its attention heads' size is " +
                                                   std::to_string(config.head_dim));
        }
    }
}

uint32_t embedding_rows(const TensorMap& tensors, const std::string& path) {
    const auto embedding = tensors.find("token_embd.weight");
    if (embedding == tensors.end() || embedding->second.shape.size() != 2) {
        throw damaged(path, "it has no matrix \"token_embd.weight\"");
    }
    const uint64_t rows = embedding->second.shape.front();
    if (rows > UINT32_MAX) {
        throw damaged(path, "its vocabulary can't have " + std::to_string(rows) + " tokens");
    }
    return static_cast<uint32_t>(rows);
}

}  // namespace

ModelConfig gguf_config(const GgufMetadata& metadata, const TensorMap& tensors) {
    ModelConfig config;
    config.architecture = known_architecture(metadata.path(), metadata.needed_text("general.architecture"));
    const std::string prefix = config.architecture + ".";
    config.layers = metadata.needed_count(prefix + "block_count");
    config.hidden = metadata.needed_count(prefix + "embedding_length");
    config.heads = metadata.needed_count(prefix + "attention.head_count");
    config.kv_heads = metadata.count(prefix + "attention.head_count_kv").value_or(config.heads);
    config.head_dim = metadata.count(prefix + "attention.key_length").value_or(0);
    config.ffn = metadata.count(prefix + "feed_forward_length").value_or(0);
    config.context_length = metadata.needed_count(prefix + "context_length");
    config.norm_epsilon = metadata.needed_number(prefix + "attention.layer_norm_rms_epsilon");
    config.rope_base = metadata.number(prefix + "rope.freq_base").value_or(10000.0f);
    config.vocabulary = embedding_rows(tensors, metadata.path());
    config.tied_embeddings = !tensors.contains("output.weight");
    if (config.has_experts()) {
        set_experts(config, metadata, prefix);
    }
    config.yarn = rope_scaling(metadata, prefix, config.context_length);
    finish_config(config, metadata.path());
    check_head_sizes(config, metadata, prefix);
    return config;
}

}  // namespace quern
