// A mixture of experts: each row goes through the few experts that its router likes best.
#pragma once

#include <cstdint>
#include <vector>

#include "model/linear.h"
#include "model/weights.h"

namespace quern {

class Experts {
public:
    explicit Experts(const ModelConfig& config) : config_(config) {}

    // hidden[rows][config.hidden] += the experts of its normalised rows. `normalised` holds the rows as floats for the
    // router, which chooses better unquantised; `quantised` the same for the experts.
    void add(const Compute& compute, const LayerWeights& layer, const float* normalised, const QuantisedRows& quantised,
             size_t rows, float* hidden);

private:
    struct Choice {
        uint32_t expert;
        float weight;
    };

    // The rows of one expert, gathered one after the other.
    struct Group {
        uint32_t expert;
        std::vector<size_t> places;  // row * experts_used + rank
        size_t first_tile;           // in gathered_, hidden by the groups before it
    };

    struct Groups {
        std::vector<Group> list;
        size_t tiles;  // of all groups together
    };

    void route(const Compute& compute, const LayerWeights& layer, const float* normalised, size_t rows);
    void choose(const float* scores, Choice* candidates, Choice* out) const;
    Groups group(size_t rows) const;
    void gather(const Compute& compute, const TilesView& from, const Groups& groups);
    void gate(const Compute& compute, const LayerWeights& layer, const Groups& groups);
    void down(const Compute& compute, const LayerWeights& layer, const Groups& groups);
    void sum(const Compute& compute, const Groups& groups, size_t rows, float* hidden);

    const ModelConfig& config_;
    std::vector<Choice> choices_;  // [rows][experts_used]
    Scratch<float> scores_;        // [rows][experts]
    Scratch<Choice> candidates_;   // [rows][experts]
    Scratch<uint8_t> gathered_;    // tiles of the groups' rows
    Scratch<float> gated_;         // [tiles * 8][expert_ffn]
    Scratch<uint8_t> quantised_;   // the same as tiles
    Scratch<float> outputs_;       // [tiles * 8][hidden]
};

}  // namespace quern
