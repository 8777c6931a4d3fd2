#include "formats/hugging_face_config.h"

#include <limits>

#include "formats/file_error.h"

namespace quern {
namespace {

// Typed members of one JSON object; null counts as absent, as it does in transformers.
class Members {
public:
    Members(const Json& object, const std::string& path) : object_(object), path_(path) {}

    const std::string& path() const { return path_; }

    const Json* find(const char* key) const {
        const Json* value = object_.find(key);
        return value != nullptr && !value->is_null() ? value : nullptr;
    }

    std::optional<uint32_t> count(const char* key) const {
        const Json* value = find(key);
        if (value == nullptr) {
            return std::nullopt;
        }
        const int64_t* integer = value->integer();
        if (integer == nullptr || *integer < 0 || *integer > std::numeric_limits<uint32_t>::max()) {
            throw wrong(key, "a whole number below 4294967296");
        }
        return static_cast<uint32_t>(*integer);
    }

    std::optional<float> number(const char* key) const {
        const Json* value = find(key);
        if (value == nullptr) {
            return std::nullopt;
        }
        if (const int64_t* integer = value->integer()) {
            return static_cast<float>(*integer);
        }
        if (value->number() == nullptr) {
            throw wrong(key, "a number");
        }
        return static_cast<float>(*value->number());
    }

    bool boolean(const char* key, bool otherwise) const {
        const Json* value = find(key);
        if (value == nullptr) {
            return otherwise;
        }
        if (value->boolean() == nullptr) {
            throw wrong(key, "true or false");
        }
        return *value->boolean();
    }

    std::optional<std::string> text(const char* key) const {
        const Json* value = find(key);
        if (value == nullptr) {
            return std::nullopt;
        }
        if (value->text() == nullptr) {
            throw wrong(key, "a text");
        }
        return *value->text();
    }

    uint32_t needed_count(const char* key) const { return needed(count(key), key); }
    float needed_number(const char* key) const { return needed(number(key), key); }
    std::string needed_text(const char* key) const { return needed(text(key), key); }

private:
    FileError wrong(const char* key, const char* expected) const {
        return damaged(path_, std::string("its value ") + key + " is not " + expected);
    }

    template <typename T>
    T needed(const std::optional<T>& value, const char* key) const {
        if (!value) {
            throw damaged(path_, std::string("it has no value ") + key);
        }
        return *value;
    }

    const Json& object_;
    const std::string& path_;
};

// What transformers would compute differently from this engine, and published Qwen models don't use.
void refuse_variants(const Members& json, const ModelConfig& config) {
    const auto refuse = [&](const std::string& what) { throw unsupported(json.path(), what); };
    if (json.text("hidden_act").value_or("silu") != "silu") {
        refuse("its hidden_act is " + in_quotes(*json.text("hidden_act")) + "; supported is silu");
    }
    if (json.boolean("use_sliding_window", false)) {
        refuse("it uses sliding-window attention (use_sliding_window)");
    }
    if (config.has_qk_norm() && json.boolean("attention_bias", false)) {
        refuse("its attention has biases (attention_bias), which this architecture's models don't have");
    }
    if (json.find("quantization_config") != nullptr) {
        refuse("it is quantised already (quantization_config); supported are BF16, F16 and F32 weights");
    }
    const Json* dense_layers = json.find("mlp_only_layers");
    const bool some_dense =
        dense_layers != nullptr && (!dense_layers->array() || !dense_layers->array()->empty());
    if (config.has_experts() && (some_dense || json.count("decoder_sparse_step").value_or(1) != 1)) {
        refuse("some of its layers have no experts (mlp_only_layers, decoder_sparse_step)");
    }
}

// The older rope_scaling and the newer rope_parameters hold the same keys; `type` is the oldest name of
// rope_type.
std::optional<Yarn> rope_scaling(const Members& rope, uint32_t context_length) {
    const std::string type = rope.text("rope_type").value_or(rope.text("type").value_or("default"));
    if (type == "default") {
        return std::nullopt;
    }
    const bool own_logarithm = rope.find("mscale") == nullptr && rope.find("mscale_all_dim") == nullptr;
    if (type != "yarn" || !own_logarithm || !rope.boolean("truncate", true)) {
        throw unsupported(rope.path(), "its RoPE scaling is of type " + in_quotes(type) +
                                           " with settings that no Qwen model has; supported is plain YaRN");
    }
    Yarn yarn;
    yarn.factor = rope.needed_number("factor");
    yarn.original_context = rope.count("original_max_position_embeddings").value_or(context_length);
    yarn.beta_fast = rope.number("beta_fast").value_or(yarn.beta_fast);
    yarn.beta_slow = rope.number("beta_slow").value_or(yarn.beta_slow);
    yarn.attention_factor = rope.number("attention_factor").value_or(yarn_attention_factor(yarn.factor));
    return yarn;
}

void set_rope(ModelConfig& config, const Members& json) {
    config.rope_base = json.number("rope_theta").value_or(10000.0f);
    for (const char* key : {"rope_parameters", "rope_scaling"}) {  // the last one wins, as in transformers
        if (const Json* value = json.find(key)) {
            if (value->object() == nullptr) {
                throw damaged(json.path(), std::string("its value ") + key + " is not an object");
            }
            const Members rope(*value, json.path());
            config.rope_base = rope.number("rope_theta").value_or(config.rope_base);
            config.yarn = rope_scaling(rope, config.context_length);
        }
    }
}

void set_experts(ModelConfig& config, const Members& json) {
    config.experts = json.needed_count("num_experts");
    config.experts_used = json.needed_count("num_experts_per_tok");
    config.expert_ffn = json.needed_count("moe_intermediate_size");
    config.normalize_expert_weights = json.boolean("norm_topk_prob", false);
}

}  // namespace

ModelConfig hugging_face_config(const Json& object, const std::string& path) {
    const Members json(object, path);
    ModelConfig config;
    config.architecture = known_architecture(path, json.needed_text("model_type"));
    config.layers = json.needed_count("num_hidden_layers");
    config.hidden = json.needed_count("hidden_size");
    config.heads = json.needed_count("num_attention_heads");
    config.kv_heads = json.count("num_key_value_heads").value_or(config.heads);
    // Qwen3Config defaults to 128, whatever the hidden size; the others divide it by the heads.
    config.head_dim = json.count("head_dim").value_or(config.architecture == "qwen3" ? 128 : 0);
    config.ffn = json.count("intermediate_size").value_or(0);
    config.vocabulary = json.needed_count("vocab_size");
    config.context_length = json.needed_count("max_position_embeddings");
    config.norm_epsilon = json.number("rms_norm_eps").value_or(1e-6f);
    config.tied_embeddings = json.boolean("tie_word_embeddings", false);
    if (config.has_experts()) {
        set_experts(config, json);
    }
    set_rope(config, json);
    refuse_variants(json, config);
    finish_config(config, path);
    return config;
}

}  // namespace quern
