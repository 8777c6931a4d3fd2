#define QUERN_ISA avx512_bf16
#define QUERN_ISA_NAME "avx512_bf16"
#include "kernels/simd_avx512.h"
#include "kernels/implementation.h"
