#pragma once

#include <cstdint>
#include <map>

namespace quern {

// How tokens are drawn. The defaults switch every step off: greedy decoding.
struct SamplerOptions {
    int32_t vocabulary_size = 0;      // at least 1
    double temperature = 0.0;         // 0 (greedy) to 100
    int32_t top_k = 0;                // 0: off
    double top_p = 1.0;               // above 0, to 1 (off)
    double min_p = 0.0;               // 0 (off) to 1
    double repetition_penalty = 1.0;  // above 0, to 100; 1: off
    double presence_penalty = 0.0;    // -100 to 100
    double frequency_penalty = 0.0;   // -100 to 100
    uint64_t seed = 0;
    std::map<int32_t, float> logit_bias;  // finite, or -inf: never
    int32_t top_logprobs = 0;             // 0 to vocabulary_size
};

// Throws std::invalid_argument with a sentence if a value is out of range.
void check(const SamplerOptions& options);

}  // namespace quern
