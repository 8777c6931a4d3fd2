#include "kernels/kernels.h"

namespace quern {
namespace avx512_bf16 { extern const Kernels kernels; }
namespace avx512_vnni { extern const Kernels kernels; }
namespace avx_vnni { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }

namespace {

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx_vnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
bool has_avx512_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }

struct Candidate {
    const Kernels* kernels;
    bool (*supported)();
};

const Candidate candidates[] = {
    {&avx512_bf16::kernels, has_avx512_bf16},
    {&avx512_vnni::kernels, has_avx512_vnni},
    {&avx_vnni::kernels, has_avx_vnni},
    {&avx2::kernels, has_avx2},
};

}  // namespace

const Kernels* find_kernels(std::string_view name) {
    for (const Candidate& candidate : candidates) {
        if ((name.empty() || candidate.kernels->name == name) && candidate.supported()) return candidate.kernels;
    }
    return nullptr;
}

}  // namespace quern
