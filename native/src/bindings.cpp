#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_peaks(nb::module_& m);

NB_MODULE(_native, m) {
  m.attr("BLOCK_TOKENS") = 32;
  bind_peaks(m);
}
