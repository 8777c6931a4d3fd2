// Drawing from logits: temperature, then top-k, top-p and min-p, then one draw from what is left.
//
// Each truncation keeps the likeliest tokens down to some rank: top-k the first k, top-p (Holtzman et al.,
// arXiv:1904.09751) the fewest whose share of what top-k left reaches p, min-p (Nguyen et al.,
// arXiv:2407.01082) those at least p times as likely as the likeliest. The order is that of Transformers' and
// vLLM's samplers.
#pragma once

#include <cstdint>

#include "sampling/logits.h"
#include "sampling/options.h"

namespace quern {

// Draws an id: of those kept, in order of id, the first up to which their share exceeds `uniform`, which is
// in [0, 1). Something must be drawable and the temperature above 0.
int32_t draw(const Logits& logits, const SamplerOptions& options, double uniform);

}  // namespace quern
