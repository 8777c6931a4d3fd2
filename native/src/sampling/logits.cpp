#include "sampling/logits.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace quern {

namespace {

bool lower_id(const Candidate& candidate, int32_t id) { return candidate.id < id; }

// Drops all but the likeliest `count`; the others stay in their order.
void keep_best(std::vector<Candidate>& candidates, size_t count) {
    if (candidates.size() <= count) return;
    std::vector<Candidate> ranked = candidates;
    const auto last = ranked.begin() + static_cast<ptrdiff_t>(count - 1);
    std::ranges::nth_element(ranked, last, likelier);
    std::erase_if(candidates, [last](const Candidate& candidate) { return likelier(*last, candidate); });
}

}  // namespace

Logits::Logits(std::span<const float> logits)
    : logits_(logits), peaks_((logits.size() + block_size - 1) / block_size) {
    for (size_t i = 0; i < blocks(); ++i) find_peak(i);
    highest_ = *std::ranges::max_element(peaks_);
}

Logits Logits::with(std::vector<Candidate> replaced, const Mask* mask) const {
    Logits result = *this;
    result.replaced_ = std::move(replaced);
    result.mask_ = mask;
    if (mask != nullptr) {
        for (size_t i = 0; i < blocks(); ++i) result.find_peak(i);
    } else {
        for (size_t done = 0; done < result.replaced_.size();) {
            const size_t i = static_cast<size_t>(result.replaced_[done].id) / block_size;
            result.find_peak(i);
            done += result.replaced_in(i).size();
        }
    }
    result.highest_ = *std::ranges::max_element(result.peaks_);
    return result;
}

float Logits::operator[](int32_t id) const {
    if (mask_ != nullptr && !(*mask_)[id]) return ruled_out;
    const auto found = std::lower_bound(replaced_.begin(), replaced_.end(), id, lower_id);
    if (found != replaced_.end() && found->id == id) return found->logit;
    return comparable(logits_[static_cast<size_t>(id)]);
}

std::vector<Candidate> Logits::at_least(float threshold) const {
    const float lowest = std::max(threshold, -std::numeric_limits<float>::max());
    std::vector<Candidate> found;
    std::array<Candidate, block_size> in_block;
    Block block;
    for (size_t i = 0; i < blocks(); ++i) {
        if (peaks_[i] < lowest) continue;
        read(i, block);
        size_t count = 0;
        for (size_t j = 0; j < block_size; ++j) {  // without a branch: which logits pass is hard to predict
            in_block[count] = {static_cast<int32_t>(i * block_size + j), block.values[j]};
            count += block.values[j] >= lowest;
        }
        found.insert(found.end(), in_block.begin(), in_block.begin() + static_cast<ptrdiff_t>(count));
    }
    return found;
}

std::vector<Candidate> Logits::best(size_t count) const {
    // The blocks with the `count` highest peaks have at least as many logits of that height. More than there
    // are blocks are mostly found above the lowest peak, too.
    std::vector<float> peaks = peaks_;
    const auto last = peaks.begin() + static_cast<ptrdiff_t>(std::min(count, blocks()) - 1);
    std::ranges::nth_element(peaks, last, std::greater<>());
    std::vector<Candidate> found = at_least(*last);
    if (found.size() < count) found = at_least(ruled_out);
    keep_best(found, count);
    return found;
}

double Logits::weigh(size_t index, float scale, Block& weights) const {
    // A block this far below the highest logit holds less than 256 * e^-40 of one token's weight, 1e-15.
    constexpr float negligible = -40.0F;
    if ((peaks_[index] - highest_) * scale < negligible) {
        weights.values.fill(0.0F);
        return 0.0;
    }
    read(index, weights);
    to_weights(weights, highest_, scale);
    return sum_of(weights);
}

double Logits::total_weight(float scale) const {
    double total = 0.0;
    Block weights;
    for (size_t i = 0; i < blocks(); ++i) total += weigh(i, scale, weights);
    return total;
}

void Logits::read(size_t index, Block& block) const {
    const size_t start = index * block_size;
    if (start + block_size <= logits_.size()) {
        load(&logits_[start], block);
    } else {
        block.values.fill(ruled_out);
        std::ranges::transform(logits_.subspan(start), block.values.begin(), comparable);
    }
    for (const Candidate& candidate : replaced_in(index)) {
        block.values[static_cast<size_t>(candidate.id) - start] = candidate.logit;
    }
    if (mask_ != nullptr) keep(mask_->of_block(index), block);
}

void Logits::find_peak(size_t index) {
    constexpr auto none = [](BlockWords allowed) {
        return std::ranges::all_of(allowed, [](uint32_t word) { return word == 0; });
    };
    if (mask_ != nullptr && none(mask_->of_block(index))) {
        peaks_[index] = ruled_out;
        return;
    }
    Block block;
    read(index, block);
    peaks_[index] = highest_of(block);
}

std::span<const Candidate> Logits::replaced_in(size_t index) const {
    const auto start = static_cast<int32_t>(index * block_size);
    const auto first = std::lower_bound(replaced_.begin(), replaced_.end(), start, lower_id);
    const auto end = start + static_cast<int32_t>(block_size);
    auto last = first;
    while (last != replaced_.end() && last->id < end) ++last;
    return {first, last};
}

}  // namespace quern
