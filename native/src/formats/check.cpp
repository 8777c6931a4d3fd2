#include "formats/check.h"

#include <string>
#include <unordered_set>
#include <utility>

namespace quern {
namespace {

using Shape = std::vector<uint64_t>;

class Checker {
public:
    explicit Checker(const ModelFile& model) : model_(model), config_(model.config) {}

    void check() {
        need("token_embd.weight", {config_.vocabulary, config_.hidden});
        need("output_norm.weight", {config_.hidden});
        if (!config_.tied_embeddings) {
            need("output.weight", {config_.vocabulary, config_.hidden});
        }
        for (uint32_t layer = 0; layer < config_.layers; ++layer) {
            const std::string prefix = "blk." + std::to_string(layer) + ".";
            need_attention(prefix);
            need(prefix + "ffn_norm.weight", {config_.hidden});
            if (config_.has_experts()) {
                need_experts(prefix);
            } else {
                need_feed_forward(prefix, "", config_.ffn);
            }
        }
        refuse_others();
    }

private:
    void need(const std::string& name, const Shape& shape) {
        const TensorInfo& tensor = model_.at(name);
        if (tensor.shape != shape) {
            throw damaged(model_.path, "its tensor " + in_quotes(name) + " has the shape " +
                                           shape_text(tensor.shape) + " where its configuration says " +
                                           shape_text(shape));
        }
        known_.insert(tensor.name);
    }

    void need_attention(const std::string& prefix) {
        const uint64_t queries = uint64_t{config_.heads} * config_.head_dim;
        const uint64_t keys = uint64_t{config_.kv_heads} * config_.head_dim;
        need(prefix + "attn_norm.weight", {config_.hidden});
        for (const auto& [name, rows] : {std::pair("attn_q", queries), {"attn_k", keys}, {"attn_v", keys}}) {
            need(prefix + name + ".weight", {rows, config_.hidden});
            if (config_.has_attention_bias()) {
                need(prefix + name + ".bias", {rows});
            }
        }
        if (config_.has_qk_norm()) {
            need(prefix + "attn_q_norm.weight", {config_.head_dim});
            need(prefix + "attn_k_norm.weight", {config_.head_dim});
        }
        need(prefix + "attn_output.weight", {config_.hidden, queries});
    }

    void need_feed_forward(const std::string& prefix, const std::string& expert, uint64_t inner) {
        need(prefix + "ffn_gate" + expert + ".weight", {inner, config_.hidden});
        need(prefix + "ffn_up" + expert + ".weight", {inner, config_.hidden});
        need(prefix + "ffn_down" + expert + ".weight", {config_.hidden, inner});
    }

    void need_experts(const std::string& prefix) {
        const uint64_t experts = config_.experts;
        const uint64_t inner = config_.expert_ffn;
        need(prefix + "ffn_gate_inp.weight", {experts, config_.hidden});
        if (model_.find(prefix + "ffn_gate_exps.weight") != nullptr) {
            need(prefix + "ffn_gate_exps.weight", {experts, inner, config_.hidden});
            need(prefix + "ffn_up_exps.weight", {experts, inner, config_.hidden});
            need(prefix + "ffn_down_exps.weight", {experts, config_.hidden, inner});
            return;
        }
        for (uint64_t expert = 0; expert < experts; ++expert) {
            need_feed_forward(prefix, std::string(".").append(std::to_string(expert)), inner);
        }
    }

    void refuse_others() const {
        for (const auto& [name, tensor] : model_.tensors()) {
            if (!known_.contains(name)) {
                throw unsupported(model_.path, "it has a tensor " + in_quotes(name) +
                                                   ", which is no part of a " + config_.architecture +
                                                   " model of " + std::to_string(config_.layers) + " layers");
            }
        }
    }

    const ModelFile& model_;
    const ModelConfig& config_;
    std::unordered_set<std::string_view> known_;
};

}  // namespace

void check_tensors(const ModelFile& model) {
    Checker(model).check();
}

}  // namespace quern
