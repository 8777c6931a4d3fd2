#include "sampling/truncation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace quern {

namespace {

// What turns a candidate's logit into its weight, relative to the likeliest's.
struct Softmax {
    float highest;
    float scale;

    double operator()(const Candidate& candidate) const {
        return std::exp(static_cast<double>(candidate.logit - highest) * scale);
    }
};

double total_weight(std::span<const Candidate> candidates, Softmax softmax) {
    double total = 0.0;
    for (const Candidate& candidate : candidates) total += softmax(candidate);
    return total;
}

// How many of the likeliest reach `goal` together. Halves the part that holds the last of them instead of sorting.
size_t count_reaching(double goal, std::vector<Candidate> candidates, Softmax softmax) {
    size_t first = 0;
    size_t end = candidates.size();
    double before = 0.0;
    while (end - first > 1) {
        const size_t middle = first + (end - first) / 2;
        const std::span part(&candidates[first], end - first);
        std::ranges::nth_element(part, part.begin() + static_cast<ptrdiff_t>(middle - first), likelier);
        const double upper = total_weight(part.first(middle - first), softmax);
        if (before + upper >= goal) {
            end = middle;
        } else {
            before += upper;
            first = middle;
        }
    }
    return end;
}

std::vector<Candidate> most_probable(const Logits& logits, const SamplerOptions& options, Softmax softmax) {
    const bool nucleus = options.top_p < 1.0;
    std::vector<Candidate> kept;
    double total = 0.0;
    if (options.top_k > 0) {
        kept = logits.best(static_cast<size_t>(options.top_k));
        total = nucleus ? total_weight(kept, softmax) : 0.0;
    } else if (nucleus) {
        // Tokens that are each below an even part of what top-p may leave out can all be left out. Halved, so that
        // rounding does not matter.
        total = logits.total_weight(softmax.scale);
        const double even_part = (1.0 - options.top_p) * total / static_cast<double>(logits.size());
        kept = logits.at_least(softmax.highest + static_cast<float>(std::log(even_part / 2) / softmax.scale));
    }
    if (nucleus) keep_best(kept, count_reaching(options.top_p * total, kept, softmax));
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
    for (size_t i = 0; i < sums.size(); ++i) total += sums[i] = logits.weigh(i, scale, weights);
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
