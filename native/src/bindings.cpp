#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace quern {
void bind_formats(nb::module_& module);
}

NB_MODULE(_native, m) {
  m.attr("BLOCK_TOKENS") = 32;
  quern::bind_formats(m);
}
