// A loaded model: weights, KV cache, and the step that uses them.
#pragma once

#include <string>
#include <vector>

#include "model/forward.h"

namespace quern {

struct ModelOptions {
    size_t threads = 1;
    size_t kv_tokens = 0;  // rounded up to whole blocks
    KvType kv_type = KvType::bf16;
    FloatWeights floats = FloatWeights::q8;
    std::string isa;  // empty: the widest this CPU has
};

class Model {
public:
    // Throws FileError, std::invalid_argument for options out of range, std::bad_alloc, or what `progress` throws.
    Model(const std::string& path, const ModelOptions& options, const LoadProgress& progress);

    const ModelConfig& config() const { return config_; }
    const KvCache& cache() const { return cache_; }
    const Kernels& kernels() const { return kernels_; }
    size_t weight_bytes() const { return weights_.bytes(); }

    // One token list per item, see Item; empty where its logits allow no draw, and where it has no sampler. Throws
    // std::invalid_argument before anything is computed.
    std::vector<std::vector<Sampled>> forward(std::vector<Item> items);

    // logits[sum of the items' samples][vocabulary], valid until the next call.
    const float* logits(std::vector<Item> items);

private:
    Model(const ModelFile& file, const ModelOptions& options, const LoadProgress& progress);

    std::vector<Sampled> sample(const Item& item, const float* logits) const;

    ModelConfig config_;
    const Kernels& kernels_;
    ThreadPool pool_;
    ModelWeights weights_;
    KvCache cache_;
    Forward forward_;
};

}  // namespace quern
