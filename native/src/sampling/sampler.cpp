#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "sampling/random.h"
#include "sampling/truncation.h"

namespace quern {

namespace {

SamplerOptions checked(SamplerOptions options) {
    check(options);
    return options;
}

void require_length(size_t length, int32_t vocabulary_size) {
    if (length == static_cast<size_t>(vocabulary_size)) return;
    throw std::invalid_argument("There are " + std::to_string(length) +
                                " logits; the sampler's vocabulary has " + std::to_string(vocabulary_size) +
                                ", and it needs one for each id.");
}

void require_choice(const Logits& logits, const char* message) {
    if (logits.highest() == ruled_out) throw std::runtime_error(message);
}

std::vector<std::pair<int32_t, float>> top_of(const Logits& raw, size_t count, double log_total) {
    std::vector<Candidate> best = raw.best(count);
    std::ranges::sort(best, likelier);
    std::vector<std::pair<int32_t, float>> top;
    top.reserve(best.size());
    for (const Candidate& candidate : best) {
        top.emplace_back(candidate.id, static_cast<float>(candidate.logit - log_total));
    }
    return top;
}

}  // namespace

Sampler::Sampler(SamplerOptions options) : options_(checked(std::move(options))), penalties_(options_) {}

void Sampler::observe_prompt(std::span<const int32_t> ids) {
    require_ids(ids, "The prompt");
    penalties_.observe_prompt(ids);
}

void Sampler::observe_generated(std::span<const int32_t> ids) {
    require_ids(ids, "The answer so far");
    penalties_.observe_generated(ids);
    drawn_ += ids.size();
}

void Sampler::require_ids(std::span<const int32_t> ids, const char* whose) const {
    for (const int32_t id : ids) {
        if (id >= 0 && id < options_.vocabulary_size) continue;
        throw std::invalid_argument(std::string(whose) + " has the id " + std::to_string(id) +
                                    "; ids of this vocabulary are 0 to " +
                                    std::to_string(options_.vocabulary_size - 1) + ".");
    }
}

void Sampler::allow(std::span<const uint8_t> bits) {
    mask_.emplace(bits, static_cast<size_t>(options_.vocabulary_size));
}

Sampled Sampler::sample(std::span<const float> logits) {
    require_length(logits.size(), options_.vocabulary_size);
    const Logits raw(logits);
    require_choice(
        raw,
        "Every logit is NaN or -inf, so no token can be drawn: the model's weights or its computation "
        "are damaged. Check the model file, then start again.");
    const Logits changed = raw.with(penalties_.changed(raw), mask_ ? &*mask_ : nullptr);
    require_choice(changed, mask_ ? "The mask and logit_bias rule out every token that the model allows."
                                  : "logit_bias rules out every token that the model allows. Leave at least one.");
    const double log_total = raw.highest() + std::log(raw.total_weight(1.0F));

    Sampled sampled{.id = choose(changed), .logprob = 0.0F, .top = {}};
    sampled.logprob = static_cast<float>(raw[sampled.id] - log_total);
    if (const auto count = static_cast<size_t>(options_.top_logprobs)) {
        sampled.top = top_of(raw, count, log_total);
    }
    penalties_.observe_generated(sampled.id);
    mask_.reset();
    ++drawn_;
    return sampled;
}

int32_t Sampler::choose(const Logits& logits) const {
    if (options_.temperature == 0.0) return logits.best(1).front().id;
    return draw(logits, options_, uniform(options_.seed, drawn_));
}

}  // namespace quern
