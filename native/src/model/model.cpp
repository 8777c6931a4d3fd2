#include "model/model.h"

#include <exception>
#include <stdexcept>

#include "formats/check.h"
#include "formats/file_error.h"

namespace quern {
namespace {

const Kernels& kernels_called(const std::string& name) {
    if (const Kernels* kernels = find_kernels(name)) return *kernels;
    throw std::invalid_argument(name.empty() ? "This CPU has neither AVX2 nor AVX-512; use the llamacpp engine."
                                             : "This CPU cannot run the kernels called " + name + ".");
}

ModelFile open_checked(const std::string& path) {
    ModelFile file = open_model(path);
    check_tensors(file);
    if (file.config.head_dim % 32 != 0) {
        throw FileError(path + ": its attention heads have " + std::to_string(file.config.head_dim) +
                        " values, and Quern's kernels need a multiple of 32. Use the llamacpp engine for this model.");
    }
    if (file.config.heads / file.config.kv_heads > query_tile_rows) {
        throw FileError(path + ": " + std::to_string(file.config.heads / file.config.kv_heads) +
                        " of its attention heads share a KV head, and Quern's kernels take at most " +
                        std::to_string(query_tile_rows) + ". Use the llamacpp engine for this model.");
    }
    return file;
}

}  // namespace

Model::Model(const std::string& path, const ModelOptions& options, const LoadProgress& progress)
    : Model(open_checked(path), options, progress) {}

Model::Model(const ModelFile& file, const ModelOptions& options, const LoadProgress& progress)
    : config_(file.config), kernels_(kernels_called(options.isa)), pool_(options.threads),
      weights_(load_weights(file, options.floats, options.threads, progress)),
      cache_(config_, options.kv_type, (options.kv_tokens + block_tokens - 1) / block_tokens),
      forward_(config_, weights_, cache_, {kernels_, pool_}) {}

std::vector<Sampled> Model::sample(const Item& item, const float* logits) const {
    std::vector<Sampled> drawn;
    for (size_t i = 0; i < item.samples; ++i) {
        drawn.push_back(item.sampler->sample({logits + i * config_.vocabulary, config_.vocabulary}));
        const size_t next = item.tokens.size() - item.samples + i + 1;
        if (next < item.tokens.size() && drawn.back().id != item.tokens[next]) break;
    }
    return drawn;
}

std::vector<std::vector<Sampled>> Model::forward(std::vector<Item> items) {
    const Batch batch(std::move(items), config_, cache_.blocks(), false);
    const float* logits = forward_.run(batch);
    std::vector<std::vector<Sampled>> tokens(batch.items.size());
    pool_.run(batch.items.size(), [&](size_t i) {
        if (!batch.items[i].sampler) return;
        try {
            tokens[i] = sample(batch.items[i], logits + batch.logit_starts[i] * config_.vocabulary);
        } catch (const std::exception&) {
            // Nothing could be drawn. The other items' tokens must not be lost for it, so this list stays empty.
            tokens[i].clear();
        }
    });
    return tokens;
}

const float* Model::logits(std::vector<Item> items) {
    return forward_.run(Batch(std::move(items), config_, cache_.blocks(), true));
}

}  // namespace quern
