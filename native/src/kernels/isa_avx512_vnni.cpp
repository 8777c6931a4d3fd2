#define QUERN_ISA avx512_vnni
#define QUERN_ISA_NAME "avx512_vnni"
#include "kernels/simd_avx512.h"
#include "kernels/implementation.h"
