#include "sampling/penalties.h"

#include <algorithm>
#include <utility>

namespace quern {

Penalties::Penalties(const SamplerOptions& options)
    : repetition_(options.repetition_penalty),
      presence_(options.presence_penalty),
      frequency_(options.frequency_penalty) {
    for (const auto& [id, bias] : options.logit_bias) entries_.push_back({.id = id, .bias = bias});
}

void Penalties::observe_prompt(std::span<const int32_t> ids) {
    if (repetition_ != 1.0) observe(ids, false);
}

void Penalties::observe_generated(std::span<const int32_t> ids) {
    if (concern_answer()) observe(ids, true);
}

void Penalties::observe_generated(int32_t id) {
    if (!concern_answer()) return;
    Entry& entry = entry_of(id);
    entry.seen = true;
    ++entry.generated;
}

std::vector<Candidate> Penalties::changed(const Logits& raw) const {
    std::vector<Candidate> result;
    result.reserve(entries_.size());
    for (const Entry& entry : entries_) result.push_back({entry.id, apply(entry, raw[entry.id])});
    return result;
}

bool Penalties::concern_answer() const {
    return repetition_ != 1.0 || presence_ != 0.0 || frequency_ != 0.0;
}

void Penalties::observe(std::span<const int32_t> ids, bool generated) {
    // One merge: inserting a long prompt's ids singly would take quadratic time.
    std::vector<int32_t> sorted(ids.begin(), ids.end());
    std::ranges::sort(sorted);
    std::vector<Entry> merged;
    merged.reserve(entries_.size() + sorted.size());
    auto known = entries_.begin();
    for (const int32_t id : sorted) {
        while (known != entries_.end() && known->id <= id) merged.push_back(*known++);
        if (merged.empty() || merged.back().id != id) merged.push_back({.id = id});
        merged.back().seen = true;
        if (generated) ++merged.back().generated;
    }
    merged.insert(merged.end(), known, entries_.end());
    entries_ = std::move(merged);
}

Penalties::Entry& Penalties::entry_of(int32_t id) {
    const auto found = std::ranges::lower_bound(entries_, id, {}, &Entry::id);
    if (found != entries_.end() && found->id == id) return *found;
    return *entries_.insert(found, {.id = id});
}

float Penalties::apply(const Entry& entry, float logit) const {
    double changed = static_cast<double>(logit) + entry.bias;
    if (entry.seen) changed = changed > 0 ? changed / repetition_ : changed * repetition_;
    if (entry.generated > 0) changed -= presence_ + frequency_ * entry.generated;
    return comparable(static_cast<float>(changed));
}

}  // namespace quern
