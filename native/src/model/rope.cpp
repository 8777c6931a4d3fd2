#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quern {
namespace {

// The dimension whose wave turns `turns` times in the original context (YaRN, equation 17 solved for the dimension).
double dimension_of(double turns, const ModelConfig& config) {
    const double context = config.yarn->original_context;
    return config.head_dim * std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(config.rope_base));
}

// The share of each frequency that is interpolated: 0 below `low`, 1 above `high` (YaRN, section 3.2).
double ramp(size_t i, double low, double high) {
    return std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0);
}

}  // namespace

Rope::Rope(const ModelConfig& config) : frequencies_(config.head_dim / 2) {
    double low = 0, high = 0;
    if (config.yarn) {
        low = std::max(std::floor(dimension_of(config.yarn->beta_fast, config)), 0.0);
        high = std::min(std::ceil(dimension_of(config.yarn->beta_slow, config)), config.head_dim - 1.0);
        factor_ = config.yarn->attention_factor;
    }
    for (size_t i = 0; i < frequencies_.size(); ++i) {
        const double plain = std::pow(config.rope_base, -2.0 * static_cast<double>(i) / config.head_dim);
        const double interpolated = config.yarn ? ramp(i, low, high) : 0.0;
        const double factor = config.yarn ? config.yarn->factor : 1.0;
        frequencies_[i] = plain * (1 - interpolated) + plain / factor * interpolated;
    }
}

void Rope::angles(size_t position, float* cosine, float* sine) const {
    for (size_t i = 0; i < frequencies_.size(); ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        cosine[i] = static_cast<float>(std::cos(angle) * factor_);
        sine[i] = static_cast<float>(std::sin(angle) * factor_);
    }
}

}  // namespace quern
