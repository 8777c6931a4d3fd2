// Rotary position embeddings (Su et al. 2021), with YaRN's frequencies where the model has them.
#pragma once

#include <vector>

#include "formats/config.h"

namespace quern {

class Rope {
public:
    explicit Rope(const ModelConfig& config);

    size_t half() const { return frequencies_.size(); }

    // cosine[half()] and sine[half()] of one position's angles.
    void angles(size_t position, float* cosine, float* sine) const;

private:
    std::vector<double> frequencies_;  // radians per position
    double factor_ = 1;                // multiplies cosines and sines
};

}  // namespace quern
