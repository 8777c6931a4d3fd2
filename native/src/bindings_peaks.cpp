#include <nanobind/nanobind.h>

#include "runtime/peaks.h"

namespace nb = nanobind;
using namespace nb::literals;

void bind_peaks(nb::module_& m) {
    using Released = nb::call_guard<nb::gil_scoped_release>;
    m.def("read_bandwidth", &quern::read_bandwidth, "threads"_a, "bytes"_a, "seconds"_a, Released());
    m.def("int8_peak", &quern::int8_peak, "threads"_a, "seconds"_a, Released());
    m.def("bf16_peak", &quern::bf16_peak, "threads"_a, "seconds"_a, Released());
}
