#include "sampling/options.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string_view>

namespace quern {

namespace {

template <typename Value>
void require(bool in_range, std::string_view name, Value value, std::string_view range) {
    if (in_range) return;
    std::ostringstream message;
    message << name << " is " << value << "; it must be " << range << '.';
    throw std::invalid_argument(message.str());
}

bool between(double lowest, double value, double highest) { return lowest <= value && value <= highest; }

void check_bias(const SamplerOptions& options) {
    for (const auto& [id, bias] : options.logit_bias) {
        std::ostringstream of;
        of << "from 0 to " << options.vocabulary_size - 1 << ", the ids of the vocabulary";
        require(id >= 0 && id < options.vocabulary_size, "An id of logit_bias", id, of.str());
        std::ostringstream name;
        name << "logit_bias of id " << id;
        require(bias < std::numeric_limits<float>::infinity(), name.str(), bias,
                "finite, or -inf to rule the id out");
    }
}

}  // namespace

void check(const SamplerOptions& options) {
    require(options.vocabulary_size >= 1, "vocabulary_size", options.vocabulary_size, "at least 1");
    require(between(0, options.temperature, 100), "temperature", options.temperature,
            "from 0 (greedy) to 100");
    require(options.top_k >= 0, "top_k", options.top_k, "at least 1, or 0 to switch it off");
    require(options.top_p > 0 && options.top_p <= 1, "top_p", options.top_p, "above 0 and at most 1 (off)");
    require(between(0, options.min_p, 1), "min_p", options.min_p, "from 0 (off) to 1");
    require(options.repetition_penalty > 0 && options.repetition_penalty <= 100, "repetition_penalty",
            options.repetition_penalty, "above 0 and at most 100; 1 switches it off");
    require(between(-100, options.presence_penalty, 100), "presence_penalty", options.presence_penalty,
            "from -100 to 100; 0 switches it off");
    require(between(-100, options.frequency_penalty, 100), "frequency_penalty", options.frequency_penalty,
            "from -100 to 100; 0 switches it off");
    require(options.top_logprobs >= 0 && options.top_logprobs <= options.vocabulary_size, "top_logprobs",
            options.top_logprobs, "from 0 to vocabulary_size");
    check_bias(options);
}

}  // namespace quern
