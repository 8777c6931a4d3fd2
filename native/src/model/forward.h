// One forward pass of a qwen2, qwen3 or qwen3moe network over a ragged batch.
#pragma once

#include <vector>

#include "model/batch.h"
#include "model/experts.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/rope.h"
#include "model/weights.h"

namespace quern {

class Forward {
public:
    Forward(const ModelConfig& config, const ModelWeights& weights, KvCache& cache, const Compute& compute);

    // Computes the batch, stores its keys and values, fills the embeddings of its items, and returns
    // logits[batch.logit_rows.size()][vocabulary], valid until the next call.
    const float* run(const Batch& batch);

private:
    void embed(const Batch& batch);
    void attention(const LayerWeights& layer, size_t index, const Batch& batch);
    void prepare_queries_and_cache(const LayerWeights& layer, size_t index, const Batch& batch);
    void attend(size_t index, const Batch& batch);
    void feed_forward(const LayerWeights& layer, const Batch& batch);
    void pool(const Batch& batch);
    const float* head(const Batch& batch);

    const ModelConfig& config_;
    const ModelWeights& weights_;
    KvCache& cache_;
    Compute compute_;
    Rope rope_;
    Experts experts_;

    Scratch<float> hidden_;      // [rows][hidden], the residual stream
    Scratch<float> angles_;      // [rows][cosines, sines]
    Scratch<float> projected_;   // [rows][queries, keys, values]
    Scratch<uint16_t> queries_;  // [rows][heads * head_dim], bfloat16
    Scratch<float> attended_;    // [rows][heads * head_dim]
    Scratch<float> gated_;       // [rows][ffn]
    Scratch<float> normalised_;  // [rows][hidden], for the router
    Scratch<float> logits_;
    QuantisedRows quantised_;
    std::vector<QueryRun> runs_;
};

}  // namespace quern
