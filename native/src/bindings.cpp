#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_peaks(nb::module_& m);
void bind_sampling(nb::module_& m);

namespace quern {
void bind_formats(nb::module_& m);
void bind_model(nb::module_& m);
void bind_kernels(nb::module_& m);
}  // namespace quern

NB_MODULE(_native, m) {
    quern::bind_formats(m);
    bind_sampling(m);
    quern::bind_model(m);
    quern::bind_kernels(m);
    bind_peaks(m);
}
