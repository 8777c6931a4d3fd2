#include "sampling/truncation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <span>

#include "sampling/exponential.h"

namespace quern {

namespace {

// What turns a candidate's logit into its weight, relative to the likeliest's.
struct Softmax {
    float highest;
    float scale;

    double operator()(const Candidate& candidate) const {
        return exp_of(std::max((candidate.logit - highest) * scale, least_exponent));
    }
};

double total_weight(std::span<const Candidate> candidates, Softmax softmax) {
    double total = 0.0;
    for (const Candidate& candidate : candidates) total += softmax(candidate);
    return total;
}

// Drops all but the fewest of the likeliest that reach `goal` together.
//
// Sorts only the candidates about as likely as the last of them: a histogram over their logits finds it.
void keep_nucleus(std::vector<Candidate>& candidates, double goal, Softmax softmax) {
    constexpr size_t bins = 1400;
    constexpr float bins_per_nat = 16.0F;  // 87.5 nats in all; weights are 0 from there on
    const auto bin_of = [softmax](const Candidate& candidate) {
        const float nats = (softmax.highest - candidate.logit) * softmax.scale;
        return static_cast<size_t>(std::min(nats * bins_per_nat, float{bins - 1}));
    };
    std::array<double, bins> weights{};
    for (const Candidate& candidate : candidates) weights[bin_of(candidate)] += softmax(candidate);
    size_t last_bin = 0;
    double reached = 0.0;
    while (last_bin < bins - 1 && reached + weights[last_bin] < goal) reached += weights[last_bin++];

    std::vector<Candidate> around;
    std::ranges::copy_if(candidates, std::back_inserter(around),
                         [&](const Candidate& candidate) { return bin_of(candidate) == last_bin; });
    std::ranges::sort(around, likelier);
    if (around.empty()) return;  // rounding alone: all of them together just miss the goal
    Candidate last = around.back();
    for (const Candidate& candidate : around) {
        reached += softmax(candidate);
        if (reached < goal) continue;
        last = candidate;
        break;
    }
    std::erase_if(candidates, [last](const Candidate& candidate) { return likelier(last, candidate); });
}

// All down to some likelihood that reach `goal` together, so that the nucleus is among them.
std::vector<Candidate> around_nucleus(const Logits& logits, double total, double goal, Softmax softmax) {
    // Tokens that are each below an even part of what may be left out can all be left out, halved to be safe
    // from rounding. Mostly the nucleus ends far above that, so a higher threshold is tried first.
    const double all_parts = 2.0 * static_cast<double>(logits.size());
    for (double parts = 64.0;; parts *= 64.0) {
        const double smallest = (total - goal) / std::min(parts, all_parts);
        const double nats = std::log(smallest) / softmax.scale;
        std::vector<Candidate> found = logits.at_least(softmax.highest + static_cast<float>(nats));
        if (parts >= all_parts || total_weight(found, softmax) >= goal) return found;
    }
}

std::vector<Candidate> most_probable(const Logits& logits, const SamplerOptions& options, Softmax softmax) {
    const bool nucleus = options.top_p < 1.0;
    if (options.top_k > 0) {
        std::vector<Candidate> kept = logits.best(static_cast<size_t>(options.top_k));
        if (nucleus) keep_nucleus(kept, options.top_p * total_weight(kept, softmax), softmax);
        return kept;
    }
    const double total = logits.total_weight(softmax.scale);
    std::vector<Candidate> kept = around_nucleus(logits, total, options.top_p * total, softmax);
    keep_nucleus(kept, options.top_p * total, softmax);
    return kept;
}

std::vector<Candidate> kept_of(const Logits& logits, const SamplerOptions& options, Softmax softmax) {
    const float lowest = softmax.highest + static_cast<float>(std::log(options.min_p) / softmax.scale);
    if (options.top_k == 0 && options.top_p == 1.0) return logits.at_least(lowest);
    std::vector<Candidate> kept = most_probable(logits, options, softmax);
    std::erase_if(kept, [lowest](const Candidate& candidate) { return candidate.logit < lowest; });
    return kept;
}

int32_t draw_from(std::span<const Candidate> kept, Softmax softmax, double uniform) {
    double left = uniform * total_weight(kept, softmax);
    int32_t drawn = kept.front().id;
    for (const Candidate& candidate : kept) {
        const double weight = softmax(candidate);
        if (weight > 0.0) drawn = candidate.id;
        left -= weight;
        if (left < 0.0) break;
    }
    return drawn;
}

// Without truncation: finds the block first, then the token in it.
int32_t draw_from_all(const Logits& logits, float scale, double uniform) {
    std::vector<double> sums(logits.blocks());
    Block weights;
    double total = 0.0;
    for (size_t i = 0; i < sums.size(); ++i) {
        sums[i] = logits.weigh(i, scale, weights);
        total += sums[i];
    }
    double left = uniform * total;
    size_t index = 0;
    for (size_t i = 0; i < sums.size() && left >= 0.0; ++i) {
        if (sums[i] > 0.0) index = i;
        left -= sums[i];
    }
    left += sums[index];
    logits.weigh(index, scale, weights);
    size_t drawn = 0;
    for (size_t j = 0; j < block_size && left >= 0.0; ++j) {
        if (weights.values[j] > 0.0F) drawn = j;
        left -= static_cast<double>(weights.values[j]);
    }
    return static_cast<int32_t>(index * block_size + drawn);
}

}  // namespace

int32_t draw(const Logits& logits, const SamplerOptions& options, double uniform) {
    // A temperature so low that its inverse overflows has the likeliest alone, whatever the finite scale.
    const double inverse = std::min(1.0 / options.temperature, double{std::numeric_limits<float>::max()});
    const Softmax softmax{logits.highest(), static_cast<float>(inverse)};
    if (options.top_k == 0 && options.top_p == 1.0 && options.min_p == 0.0) {
        return draw_from_all(logits, softmax.scale, uniform);
    }
    return draw_from(kept_of(logits, options, softmax), softmax, uniform);
}

}  // namespace quern
