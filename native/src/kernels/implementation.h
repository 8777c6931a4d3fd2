#pragma once

#include "kernels/attention.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"

namespace quern::QUERN_ISA {

// The table of this translation unit's instruction set.
extern const Kernels kernels;
const Kernels kernels = {
    QUERN_ISA_NAME, multiply, quantise, normalise, normalise_heads, rotate, to_bfloat16, attend, dot_rows, accumulate,
};

}  // namespace quern::QUERN_ISA
