#include "model/weights.h"

#include <string>

#include "formats/file_error.h"

namespace quern {
namespace {

ExpertWeights load_expert(Loader& loader, const ModelFile& file, const std::string& prefix, size_t expert) {
    if (file.find(prefix + "ffn_gate_exps.weight")) {
        return {loader.matrix(prefix + "ffn_gate_exps.weight", expert),
                loader.matrix(prefix + "ffn_up_exps.weight", expert),
                loader.matrix(prefix + "ffn_down_exps.weight", expert)};
    }
    const std::string suffix = std::string(".").append(std::to_string(expert)).append(".weight");
    return {loader.matrix(prefix + "ffn_gate" + suffix), loader.matrix(prefix + "ffn_up" + suffix),
            loader.matrix(prefix + "ffn_down" + suffix)};
}

// The experts of a layer read the same quantised rows.
void check_alike(const ModelFile& file, const std::string& prefix, const ExpertWeights& a, const ExpertWeights& b) {
    if (a.gate.view().format != b.gate.view().format || a.up.view().format != b.up.view().format ||
        a.down.view().format != b.down.view().format) {
        throw FileError(file.path + ": the experts of " + prefix + " are quantised in different ways, which Quern's " +
                        "kernels don't take. Use the llamacpp engine for this model.");
    }
}

LayerWeights load_layer(Loader& loader, const ModelFile& file, size_t index) {
    const std::string prefix = std::string("blk.").append(std::to_string(index)).append(".");
    const ModelConfig& config = file.config;
    LayerWeights layer;
    layer.attention_norm = loader.floats(prefix + "attn_norm.weight");
    layer.query = loader.matrix(prefix + "attn_q.weight");
    layer.key = loader.matrix(prefix + "attn_k.weight");
    layer.value = loader.matrix(prefix + "attn_v.weight");
    if (config.has_attention_bias()) {
        layer.query_bias = loader.floats(prefix + "attn_q.bias");
        layer.key_bias = loader.floats(prefix + "attn_k.bias");
        layer.value_bias = loader.floats(prefix + "attn_v.bias");
    }
    if (config.has_qk_norm()) {
        layer.query_norm = loader.floats(prefix + "attn_q_norm.weight");
        layer.key_norm = loader.floats(prefix + "attn_k_norm.weight");
    }
    layer.attention_output = loader.matrix(prefix + "attn_output.weight");
    layer.ffn_norm = loader.floats(prefix + "ffn_norm.weight");
    if (config.has_experts()) {
        layer.router = loader.floats(prefix + "ffn_gate_inp.weight");
        for (size_t e = 0; e < config.experts; ++e) layer.experts.push_back(load_expert(loader, file, prefix, e));
        for (const ExpertWeights& expert : layer.experts) check_alike(file, prefix, layer.experts[0], expert);
    } else {
        layer.dense = {loader.matrix(prefix + "ffn_gate.weight"), loader.matrix(prefix + "ffn_up.weight"),
                       loader.matrix(prefix + "ffn_down.weight")};
    }
    return layer;
}

size_t expert_bytes(const ExpertWeights& expert) {
    return expert.gate.bytes() + expert.up.bytes() + expert.down.bytes();
}

}  // namespace

size_t ModelWeights::bytes() const {
    size_t sum = embedding.bytes() + output.bytes();
    for (const LayerWeights& layer : layers) {
        sum += layer.query.bytes() + layer.key.bytes() + layer.value.bytes() + layer.attention_output.bytes();
        sum += expert_bytes(layer.dense);
        for (const ExpertWeights& expert : layer.experts) sum += expert_bytes(expert);
    }
    return sum;
}

ModelWeights load_weights(const ModelFile& file, FloatWeights floats, size_t threads, const LoadProgress& progress) {
    Loader loader(file, floats);
    ModelWeights weights;
    weights.embedding = loader.matrix("token_embd.weight");
    if (!file.config.tied_embeddings) weights.output = loader.matrix("output.weight");
    weights.output_norm = loader.floats("output_norm.weight");
    for (size_t i = 0; i < file.config.layers; ++i) weights.layers.push_back(load_layer(loader, file, i));
    loader.run(threads, progress);
    return weights;
}

}  // namespace quern
