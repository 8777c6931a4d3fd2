#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sampling/mask.h"
#include "sampling/options.h"
#include "sampling/penalties.h"

namespace quern {

// A drawn token. Logprobs are natural logarithms of the model's own distribution: before penalties, bias,
// temperature and truncation.
struct Sampled {
    int32_t id;
    float logprob;
    std::vector<std::pair<int32_t, float>> top;  // the likeliest ids and their logprobs, best first
};

// How one sequence draws its tokens, with what it has drawn. The n-th token depends on the seed, on n, on the
// logits, on what the penalties have seen and on the ids that are allowed. Different samplers may draw at the
// same time.
class Sampler {
public:
    explicit Sampler(SamplerOptions options);  // throws std::invalid_argument with a sentence

    // The repetition penalty's ids. Throws std::invalid_argument for one that is not in the vocabulary.
    void observe_prompt(std::span<const int32_t> ids);

    // Goes on after ids that another sampler with these options drew in an earlier life, as if this one had.
    // Throws std::invalid_argument for one that is not in the vocabulary.
    void observe_generated(std::span<const int32_t> ids);

    // How many tokens were drawn; all that the next draw takes from the seed is the number of this position.
    uint64_t position() const { return drawn_; }

    // Only ids whose bit is set (see Mask) can be the next token; the one after it is free again. Throws
    // std::invalid_argument for a mask that is shorter than the vocabulary.
    void allow(std::span<const uint8_t> bits);

    // Draws the next token from logits [vocabulary_size]. Throws std::invalid_argument for another length and
    // std::runtime_error where nothing can be drawn; nothing has changed then.
    Sampled sample(std::span<const float> logits);

private:
    void require_ids(std::span<const int32_t> ids, const char* whose) const;
    int32_t choose(const Logits& logits) const;

    SamplerOptions options_;
    Penalties penalties_;
    std::optional<Mask> mask_;  // of the next token
    uint64_t drawn_ = 0;
};

}  // namespace quern
