// The steps that change single logits: bias, then the repetition, presence and frequency penalties.
//
// They follow Transformers (RepetitionPenaltyLogitsProcessor, after Keskar et al., arXiv:1909.05858) and vLLM
// (vllm/model_executor/layers/utils.py): repetition divides positive logits and multiplies negative ones, for
// ids of the prompt and of the answer; presence and frequency look at the answer alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/logits.h"
#include "sampling/options.h"

namespace quern {

// What one sequence's bias and penalties need: the ids they concern.
class Penalties {
public:
    explicit Penalties(const SamplerOptions& options);  // checked options

    void observe_prompt(std::span<const int32_t> ids);
    void observe_generated(int32_t id);
    void observe_generated(std::span<const int32_t> ids);

    // The logits that differ from the raw ones, sorted by id.
    std::vector<Candidate> changed(const Logits& raw) const;

private:
    struct Entry {
        int32_t id;
        float bias = 0.0F;
        bool seen = false;       // in the prompt or in the answer
        uint32_t generated = 0;  // how often, in the answer
    };

    bool concern_answer() const;
    Entry& entry_of(int32_t id);
    void observe(std::span<const int32_t> ids, bool generated);
    float apply(const Entry& entry, float logit) const;

    double repetition_, presence_, frequency_;
    std::vector<Entry> entries_;  // sorted by id
};

}  // namespace quern
