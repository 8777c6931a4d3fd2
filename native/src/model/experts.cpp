#include "model/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quern {
namespace {

// Copies quantised row `from_row` to `to_row` of other tiles of the same width.
void copy_row(const uint8_t* from_tiles, size_t from_row, uint8_t* to_tiles, size_t to_row, size_t columns) {
    const TileLayout layout{columns};
    const uint8_t* from = from_tiles + from_row / tile_rows * layout.bytes();
    uint8_t* to = to_tiles + to_row / tile_rows * layout.bytes();
    const size_t source = from_row % tile_rows, target = to_row % tile_rows;
    const auto copy = [&](size_t begin, size_t pieces, size_t bytes) {
        for (size_t i = 0; i < pieces; ++i) {
            std::memcpy(to + begin + (i * tile_rows + target) * bytes, from + begin + (i * tile_rows + source) * bytes,
                        bytes);
        }
    };
    copy(layout.codes(), columns / block_columns, block_columns);
    copy(layout.scales(), layout.superblocks(), superblock_blocks * sizeof(float));
    copy(layout.sums16(), layout.superblocks(), 16 * sizeof(int16_t));
    copy(layout.sums32(), layout.superblocks(), 8 * sizeof(int16_t));
}

size_t tiles_of(size_t rows) { return (rows + tile_rows - 1) / tile_rows; }

}  // namespace

// Softmax over all experts, the best `experts_used`, and their shares made to sum to 1 where the model says so.
void Experts::choose(const float* scores, Choice* all, Choice* out) const {
    const float largest = *std::max_element(scores, scores + config_.experts);
    float sum = 0.0F;
    for (uint32_t e = 0; e < config_.experts; ++e) {
        all[e] = {e, std::exp(scores[e] - largest)};
        sum += all[e].weight;
    }
    const auto better = [](const Choice& a, const Choice& b) {
        return a.weight != b.weight ? a.weight > b.weight : a.expert < b.expert;
    };
    std::partial_sort(all, all + config_.experts_used, all + config_.experts, better);
    float kept = 0.0F;
    for (uint32_t i = 0; i < config_.experts_used; ++i) kept += all[i].weight;
    const float divisor = config_.normalize_expert_weights ? kept : sum;
    for (uint32_t i = 0; i < config_.experts_used; ++i) out[i] = {all[i].expert, all[i].weight / divisor};
}

void Experts::route(const Compute& compute, const LayerWeights& layer, const float* normalised, size_t rows) {
    const size_t experts = config_.experts, hidden = config_.hidden;
    float* scores = scores_.need(rows * experts);
    Choice* candidates = candidates_.need(rows * experts);
    choices_.resize(rows * config_.experts_used);
    compute.pool.run(rows, [&](size_t row) {
        for (size_t e = 0; e < experts; ++e) {
            scores[row * experts + e] =
                compute.kernels.dot(normalised + row * hidden, layer.router.data() + e * hidden, hidden);
        }
        choose(scores + row * experts, candidates + row * experts, choices_.data() + row * config_.experts_used);
    });
}

Experts::Groups Experts::group(size_t rows) const {
    std::vector<Group> groups(config_.experts);
    for (size_t place = 0; place < rows * config_.experts_used; ++place) {
        groups[choices_[place].expert].places.push_back(place);
    }
    size_t tile = 0;
    for (uint32_t e = 0; e < config_.experts; ++e) {
        groups[e].expert = e;
        groups[e].first_tile = tile;
        tile += tiles_of(groups[e].places.size());
    }
    std::erase_if(groups, [](const Group& g) { return g.places.empty(); });
    return {std::move(groups), tile};
}

void Experts::gather(const Compute& compute, const TilesView& from, const Groups& groups) {
    const size_t bytes = TileLayout{from.columns}.bytes();
    uint8_t* gathered = gathered_.need(groups.tiles * bytes);
    compute.pool.run(groups.list.size(), [&](size_t g) {
        const Group& group = groups.list[g];
        for (size_t i = 0; i < group.places.size(); ++i) {
            copy_row(from.tiles, group.places[i] / config_.experts_used, gathered + group.first_tile * bytes, i,
                     from.columns);
        }
    });
}

// The sharing of all groups' panels, so that a few rows keep all threads busy: f(group, first panel, last panel).
template <class F>
void for_each_piece(const Compute& compute, size_t groups, size_t panels, size_t step, const F& f) {
    const size_t pieces = (panels + step - 1) / step;
    compute.pool.run(groups * pieces, [&](size_t i) {
        const size_t first = i % pieces * step;
        f(i / pieces, first, std::min(first + step, panels));
    });
}

void Experts::gate(const Compute& compute, const LayerWeights& layer, const Groups& groups) {
    const size_t width = config_.hidden, inner = config_.expert_ffn, bytes = TileLayout{width}.bytes();
    float* gated = gated_.need(groups.tiles * tile_rows * inner);
    const size_t panels = layer.experts[0].gate.view().panels();
    for_each_piece(compute, groups.list.size(), panels, 8, [&](size_t g, size_t first, size_t last) {
        const Group& group = groups.list[g];
        const TilesView in{gathered_.data() + group.first_tile * bytes, group.places.size(), width};
        float* out = gated + group.first_tile * tile_rows * inner;
        const ExpertWeights& expert = layer.experts[group.expert];
        compute.kernels.multiply(expert.gate.view(), in, first, last, {out, inner, Epilogue::store});
        compute.kernels.multiply(expert.up.view(), in, first, last, {out, inner, Epilogue::silu_mul});
    });
}

void Experts::down(const Compute& compute, const LayerWeights& layer, const Groups& groups) {
    const size_t width = config_.hidden, inner = config_.expert_ffn, bytes = TileLayout{inner}.bytes();
    uint8_t* quantised = quantised_.need(groups.tiles * bytes);
    const Granularity granularity = granularity_for({layer.experts[0].down.view()});
    compute.pool.run(groups.list.size(), [&](size_t g) {
        const Group& group = groups.list[g];
        const RowsView in{gated_.data() + group.first_tile * tile_rows * inner, group.places.size(), inner};
        for (size_t tile = 0; tile < tiles_of(group.places.size()); ++tile) {
            compute.kernels.quantise(in, granularity, tile, quantised + group.first_tile * bytes);
        }
    });
    float* outputs = outputs_.need(groups.tiles * tile_rows * width);
    const size_t panels = layer.experts[0].down.view().panels();
    for_each_piece(compute, groups.list.size(), panels, 16, [&](size_t g, size_t first, size_t last) {
        const Group& group = groups.list[g];
        const TilesView in{quantised + group.first_tile * bytes, group.places.size(), inner};
        compute.kernels.multiply(layer.experts[group.expert].down.view(), in, first, last,
                                 {outputs + group.first_tile * tile_rows * width, width, Epilogue::store});
    });
}

// In order of rank, so that a row's sum doesn't depend on its company.
void Experts::sum(const Compute& compute, const Groups& groups, size_t rows, float* hidden) {
    const size_t width = config_.hidden, used = config_.experts_used;
    std::vector<const float*> output_of(rows * used);
    for (const Group& group : groups.list) {
        for (size_t i = 0; i < group.places.size(); ++i) {
            output_of[group.places[i]] = outputs_.data() + (group.first_tile * tile_rows + i) * width;
        }
    }
    compute.pool.run(rows, [&](size_t row) {
        for (size_t rank = 0; rank < used; ++rank) {
            const size_t place = row * used + rank;
            compute.kernels.accumulate(choices_[place].weight, output_of[place], hidden + row * width, width);
        }
    });
}

void Experts::add(const Compute& compute, const LayerWeights& layer, const float* normalised,
                  const QuantisedRows& quantised, size_t rows, float* hidden) {
    route(compute, layer, normalised, rows);
    const Groups groups = group(rows);
    gather(compute, quantised.view(), groups);
    gate(compute, layer, groups);
    down(compute, layer, groups);
    sum(compute, groups, rows, hidden);
}

}  // namespace quern
