// The logits of one position, searched without sorting and without a copy of the vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/blocks.h"
#include "sampling/mask.h"

namespace quern {

// An id and its logit: one that could be drawn, or one whose logit is replaced.
struct Candidate {
    int32_t id;
    float logit;
};

// The order of all rankings: by logit, equal ones by id.
inline bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// A view of logits [vocabulary size], which must outlive it. NaN counts as -inf and +inf as the largest
// float. It knows the highest logit of every block, so that a search for the best reads only the few blocks
// that can hold them.
class Logits {
public:
    explicit Logits(std::span<const float> logits);

    // The same logits with some of them replaced; `replaced` is sorted by id and its logits are comparable
    // (blocks.h). Then those that `mask` doesn't allow are ruled out; it must outlive the result, and is null
    // where all are allowed.
    Logits with(std::vector<Candidate> replaced, const Mask* mask) const;

    size_t size() const { return logits_.size(); }
    size_t blocks() const { return peaks_.size(); }

    float operator[](int32_t id) const;
    float highest() const { return highest_; }  // ruled_out when nothing can be drawn

    // All with logit >= threshold that can be drawn, sorted by id.
    std::vector<Candidate> at_least(float threshold) const;

    // The likeliest `count` (at least one) that can be drawn, or all if there are fewer; sorted by id.
    std::vector<Candidate> best(size_t count) const;

    // exp((logit - highest()) * scale) of one block's logits; returns their sum. The first belongs to the id
    // index * block_size.
    double weigh(size_t index, float scale, Block& weights) const;

    // The sum of all weights; at least 1, the weight of the highest.
    double total_weight(float scale) const;

private:
    void read(size_t index, Block& block) const;
    void find_peak(size_t index);
    std::span<const Candidate> replaced_in(size_t index) const;

    std::span<const float> logits_;
    std::vector<Candidate> replaced_;
    const Mask* mask_ = nullptr;
    std::vector<float> peaks_;  // of each block, after replacement and mask
    float highest_;
};

}  // namespace quern
