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

std::vector<Experts::Group> Experts::group(size_t rows) const {
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
    return groups;
}

void Experts::gather(const TilesView& from, const Group& group, uint8_t* tiles) const {
    for (size_t i = 0; i < group.places.size(); ++i) {
        copy_row(from.tiles, group.places[i] / config_.experts_used, tiles, i, from.columns);
    }
}

void Experts::add(const Compute& compute, const LayerWeights& layer, const float* normalised,
                  const QuantisedRows& quantised, size_t rows, float* hidden) {
    route(compute, layer, normalised, rows);
    const std::vector<Group> groups = group(rows);
    const size_t width = config_.hidden, inner = config_.expert_ffn, used = config_.experts_used;
    const size_t tiles = groups.back().first_tile + tiles_of(groups.back().places.size());
    const size_t in_bytes = TileLayout{width}.bytes(), inner_bytes = TileLayout{inner}.bytes();
    uint8_t* gathered = gathered_.need(tiles * in_bytes);
    float* gated = gated_.need(tiles * tile_rows * inner);
    uint8_t* quantised_inner = quantised_.need(tiles * inner_bytes);
    float* outputs = outputs_.need(tiles * tile_rows * width);

    compute.pool.run(groups.size(), [&](size_t g) {
        gather(quantised.view(), groups[g], gathered + groups[g].first_tile * in_bytes);
    });
    // Pieces of all groups' panels, so that a few rows keep all threads busy.
    const size_t gate_panels = layer.experts[0].gate.view().panels(), gate_step = std::min<size_t>(gate_panels, 8);
    const size_t gate_pieces = (gate_panels + gate_step - 1) / gate_step;
    compute.pool.run(groups.size() * gate_pieces, [&](size_t i) {
        const Group& g = groups[i / gate_pieces];
        const size_t first = i % gate_pieces * gate_step, last = std::min(first + gate_step, gate_panels);
        const TilesView in{gathered + g.first_tile * in_bytes, g.places.size(), width};
        float* out = gated + g.first_tile * tile_rows * inner;
        const ExpertWeights& expert = layer.experts[g.expert];
        compute.kernels.multiply(expert.gate.view(), in, first, last, {out, inner, Epilogue::store});
        compute.kernels.multiply(expert.up.view(), in, first, last, {out, inner, Epilogue::silu_mul});
    });
    const Granularity granularity = granularity_for({layer.experts[0].down.view()});
    compute.pool.run(groups.size(), [&](size_t g) {
        const Group& group = groups[g];
        for (size_t tile = 0; tile < tiles_of(group.places.size()); ++tile) {
            const RowsView in{gated + group.first_tile * tile_rows * inner, group.places.size(), inner};
            compute.kernels.quantise(in, granularity, tile, quantised_inner + group.first_tile * inner_bytes);
        }
    });
    const size_t down_panels = layer.experts[0].down.view().panels(), down_step = std::min<size_t>(down_panels, 16);
    const size_t down_pieces = (down_panels + down_step - 1) / down_step;
    compute.pool.run(groups.size() * down_pieces, [&](size_t i) {
        const Group& g = groups[i / down_pieces];
        const size_t first = i % down_pieces * down_step, last = std::min(first + down_step, down_panels);
        const TilesView in{quantised_inner + g.first_tile * inner_bytes, g.places.size(), inner};
        compute.kernels.multiply(layer.experts[g.expert].down.view(), in, first, last,
                                 {outputs + g.first_tile * tile_rows * width, width, Epilogue::store});
    });
    // In order of rank, so that a row's sum doesn't depend on its company.
    std::vector<const float*> output_of(rows * used);
    for (const Group& g : groups) {
        for (size_t i = 0; i < g.places.size(); ++i) {
            output_of[g.places[i]] = outputs + (g.first_tile * tile_rows + i) * width;
        }
    }
    compute.pool.run(rows, [&](size_t row) {
        for (size_t rank = 0; rank < used; ++rank) {
            const size_t place = row * used + rank;
            compute.kernels.accumulate(choices_[place].weight, output_of[place], hidden + row * width, width);
        }
    });
}

}  // namespace quern
