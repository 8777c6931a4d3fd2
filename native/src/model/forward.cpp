#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace quern {

Forward::Forward(const ModelConfig& config, const ModelWeights& weights, KvCache& cache, const Compute& compute)
    : config_(config), weights_(weights), cache_(cache), compute_(compute), rope_(config), experts_(config) {}

const float* Forward::run(const Batch& batch) {
    const size_t group = config_.heads / config_.kv_heads;
    runs_ = batch.query_runs(std::max<size_t>(query_tile_rows / group, 1));
    embed(batch);
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
        attention(weights_.layers[i], i, batch);
        feed_forward(weights_.layers[i], batch);
    }
    pool(batch);
    return head(batch);
}

void Forward::embed(const Batch& batch) {
    const size_t rows = batch.rows.size(), half = rope_.half();
    float* hidden = hidden_.need(rows * config_.hidden);
    float* angles = angles_.need(rows * 2 * half);
    const auto embed_row = [&](size_t i) {
        unpack_row(weights_.embedding.view(), static_cast<size_t>(batch.rows[i].token), hidden + i * config_.hidden);
        rope_.angles(batch.rows[i].position, angles + i * 2 * half, angles + i * 2 * half + half);
    };
    compute_.pool.run(rows, embed_row);
}

void Forward::attention(const LayerWeights& layer, size_t index, const Batch& batch) {
    const size_t rows = batch.rows.size(), hidden = config_.hidden;
    const size_t query = config_.heads * config_.head_dim, key = config_.kv_heads * config_.head_dim;
    const size_t width = query + 2 * key;
    Granularity granularity = granularity_for({layer.query.view(), layer.key.view(), layer.value.view()});
    uint8_t* tiles = quantised_.resize(rows, hidden);
    for_each_tile(compute_, rows, [&](size_t tile) {
        compute_.kernels.normalise({hidden_.data(), rows, hidden}, layer.attention_norm.data(), config_.norm_epsilon,
                                   granularity, tile, tiles);
    });
    const auto bias = [](const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); };
    float* projected = projected_.need(rows * width);
    multiply_all(compute_, quantised_.view(),
                 {{layer.query.view(), {projected, width, Epilogue::store, bias(layer.query_bias)}},
                  {layer.key.view(), {projected + query, width, Epilogue::store, bias(layer.key_bias)}},
                  {layer.value.view(), {projected + query + key, width, Epilogue::store, bias(layer.value_bias)}}});
    prepare_queries_and_cache(layer, index, batch);
    attend(index, batch);
    granularity = granularity_for({layer.attention_output.view()});
    tiles = quantised_.resize(rows, query);
    for_each_tile(compute_, rows, [&](size_t tile) {
        compute_.kernels.quantise({attended_.data(), rows, query}, granularity, tile, tiles);
    });
    multiply_all(compute_, quantised_.view(), {{layer.attention_output.view(), {hidden_.data(), hidden, Epilogue::add}}});
}

void Forward::prepare_queries_and_cache(const LayerWeights& layer, size_t index, const Batch& batch) {
    const size_t dim = config_.head_dim, half = rope_.half();
    const size_t query = config_.heads * dim, key = config_.kv_heads * dim, width = query + 2 * key;
    const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
    uint16_t* queries = queries_.need(batch.rows.size() * query);
    const auto prepare_row = [&](size_t i) {
        float* at = projected_.data() + i * width;
        if (!layer.query_norm.empty()) {
            const float epsilon = config_.norm_epsilon;
            compute_.kernels.normalise_heads(at, config_.heads, dim, layer.query_norm.data(), epsilon);
            compute_.kernels.normalise_heads(at + query, config_.kv_heads, dim, layer.key_norm.data(), epsilon);
        }
        const float* cosine = angles_.data() + i * 2 * half;
        compute_.kernels.rotate(at, config_.heads + config_.kv_heads, dim, cosine, cosine + half);
        compute_.kernels.to_bfloat16(at, query, scale, queries + i * query);
        const Row& row = batch.rows[i];
        const auto block = static_cast<size_t>(batch.items[row.item].blocks[row.position / block_tokens]);
        for (size_t head = 0; head < config_.kv_heads; ++head) {
            cache_.put(index, block, row.position % block_tokens, head, at + query + head * dim,
                       at + query + key + head * dim);
        }
    };
    for_each_tile(compute_, batch.rows.size(), [&](size_t tile) {
        const size_t end = std::min((tile + 1) * tile_rows, batch.rows.size());
        for (size_t i = tile * tile_rows; i < end; ++i) prepare_row(i);
    });
}

void Forward::attend(size_t index, const Batch& batch) {
    const size_t dim = config_.head_dim, query = config_.heads * dim, group = config_.heads / config_.kv_heads;
    float* attended = attended_.need(batch.rows.size() * query);
    compute_.pool.run(runs_.size() * config_.kv_heads, [&](size_t i) {
        // The longest contexts come last in an item; begun first, they don't keep the others waiting at the end.
        const QueryRun& run = runs_[runs_.size() - 1 - i / config_.kv_heads];
        const size_t kv_head = i % config_.kv_heads, offset = run.first_row * query + kv_head * group * dim;
        compute_.kernels.attend({
            .layout = cache_.layout(),
            .cache = cache_.head(index, kv_head),
            .block_stride = cache_.block_stride(),
            .blocks = batch.items[run.item].blocks.data(),
            .queries = queries_.data() + offset,
            .query_stride = query,
            .output = attended + offset,
            .output_stride = query,
            .rows = run.tokens * group,
            .group = group,
            .position = batch.rows[run.first_row].position,
        });
    });
}

void Forward::feed_forward(const LayerWeights& layer, const Batch& batch) {
    const size_t rows = batch.rows.size(), hidden = config_.hidden;
    const ExpertWeights& ffn = config_.has_experts() ? layer.experts[0] : layer.dense;
    Granularity granularity = granularity_for({ffn.gate.view(), ffn.up.view()});
    uint8_t* tiles = quantised_.resize(rows, hidden);
    for_each_tile(compute_, rows, [&](size_t tile) {
        compute_.kernels.normalise({hidden_.data(), rows, hidden}, layer.ffn_norm.data(), config_.norm_epsilon,
                                   granularity, tile, tiles);
    });
    if (config_.has_experts()) {
        float* normalised = normalised_.need(rows * hidden);
        std::memcpy(normalised, hidden_.data(), rows * hidden * sizeof(float));
        compute_.pool.run(rows, [&](size_t row) {
            compute_.kernels.normalise_heads(normalised + row * hidden, 1, hidden, layer.ffn_norm.data(),
                                             config_.norm_epsilon);
        });
        return experts_.add(compute_, layer, normalised, quantised_, rows, hidden_.data());
    }
    float* gated = gated_.need(rows * config_.ffn);
    multiply_gated(compute_, quantised_.view(), ffn.gate.view(), ffn.up.view(), gated);
    granularity = granularity_for({ffn.down.view()});
    tiles = quantised_.resize(rows, config_.ffn);
    for_each_tile(compute_, rows, [&](size_t tile) {
        compute_.kernels.quantise({gated, rows, config_.ffn}, granularity, tile, tiles);
    });
    multiply_all(compute_, quantised_.view(), {{ffn.down.view(), {hidden_.data(), hidden, Epilogue::add}}});
}

// In float32 throughout: nothing is multiplied by these rows, so they need not be quantised.
void Forward::pool(const Batch& batch) {
    const size_t hidden = config_.hidden;
    compute_.pool.run(batch.items.size(), [&](size_t i) {
        if (!batch.items[i].embedding) return;
        const float* row = hidden_.data() + batch.last_rows[i] * hidden;
        std::vector<float> values(row, row + hidden);
        compute_.kernels.normalise_heads(values.data(), 1, hidden, weights_.output_norm.data(), config_.norm_epsilon);
        const float length = std::sqrt(compute_.kernels.dot(values.data(), values.data(), hidden));
        if (std::isfinite(length) && length > 0) {
            for (float& value : values) value /= length;
        } else {
            values.clear();
        }
        batch.items[i].embedding->values = std::move(values);
    });
}

const float* Forward::head(const Batch& batch) {
    const size_t rows = batch.logit_rows.size(), hidden = config_.hidden;
    if (rows == 0) return nullptr;
    float* wanted = normalised_.need(rows * hidden);
    for (size_t i = 0; i < rows; ++i) {
        std::memcpy(wanted + i * hidden, hidden_.data() + batch.logit_rows[i] * hidden, hidden * sizeof(float));
    }
    uint8_t* tiles = quantised_.resize(rows, hidden);
    for_each_tile(compute_, rows, [&](size_t tile) {
        compute_.kernels.normalise({wanted, rows, hidden}, weights_.output_norm.data(), config_.norm_epsilon,
                                   granularity_for({weights_.head(config_).view()}), tile, tiles);
    });
    float* logits = logits_.need(rows * config_.vocabulary);
    multiply_all(compute_, quantised_.view(),
                 {{weights_.head(config_).view(), {logits, config_.vocabulary, Epilogue::store}}});
    return logits;
}

}  // namespace quern
