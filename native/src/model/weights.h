// A network's weights, ready for the kernels.
#pragma once

#include <vector>

#include "formats/model_file.h"
#include "weights/loader.h"

namespace quern {

struct ExpertWeights {
    PackedMatrix gate, up, down;
};

// One transformer block. Vectors that the architecture doesn't have are empty.
struct LayerWeights {
    std::vector<float> attention_norm;  // [hidden]
    PackedMatrix query, key, value;     // [heads or kv_heads * head_dim, hidden]
    std::vector<float> query_bias, key_bias, value_bias;
    std::vector<float> query_norm, key_norm;  // [head_dim]
    PackedMatrix attention_output;            // [hidden, heads * head_dim]
    std::vector<float> ffn_norm;              // [hidden]
    ExpertWeights dense;                      // gate and up [ffn, hidden], down [hidden, ffn]
    std::vector<float> router;                // [experts, hidden]
    std::vector<ExpertWeights> experts;
};

struct ModelWeights {
    PackedMatrix embedding;  // [vocabulary, hidden]
    PackedMatrix output;     // the same; empty where it is tied to the embedding
    std::vector<float> output_norm;
    std::vector<LayerWeights> layers;

    const PackedMatrix& head(const ModelConfig& config) const { return config.tied_embeddings ? embedding : output; }
    size_t bytes() const;
};

ModelWeights load_weights(const ModelFile& file, FloatWeights floats, size_t threads, const LoadProgress& progress);

}  // namespace quern
