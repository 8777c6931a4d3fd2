#define QUERN_ISA avx2
#define QUERN_ISA_NAME "avx2"
#include "kernels/simd_avx2.h"
#include "kernels/implementation.h"
