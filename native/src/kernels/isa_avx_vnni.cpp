#define QUERN_ISA avx_vnni
#define QUERN_ISA_NAME "avx_vnni"
#include "kernels/simd_avx2.h"
#include "kernels/implementation.h"
