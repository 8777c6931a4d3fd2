#include <nanobind/nanobind.h>

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.attr("BLOCK_TOKENS") = 32;
}
