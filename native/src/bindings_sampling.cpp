#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <optional>
#include <vector>

#include "sampling/sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

quern::Sampled sample(quern::Sampler& sampler, const Array& logits) {
    const nb::gil_scoped_release released;
    return sampler.sample({logits.data(), logits.size()});
}

void construct(quern::Sampler* place, int32_t vocabulary_size, double temperature, int32_t top_k,
               double top_p, double min_p, double repetition_penalty, double presence_penalty,
               double frequency_penalty, uint64_t seed,
               const std::optional<std::map<int32_t, float>>& logit_bias, int32_t top_logprobs) {
    new (place) quern::Sampler({.vocabulary_size = vocabulary_size,
                                .temperature = temperature,
                                .top_k = top_k,
                                .top_p = top_p,
                                .min_p = min_p,
                                .repetition_penalty = repetition_penalty,
                                .presence_penalty = presence_penalty,
                                .frequency_penalty = frequency_penalty,
                                .seed = seed,
                                .logit_bias = logit_bias.value_or(std::map<int32_t, float>()),
                                .top_logprobs = top_logprobs});
}

}  // namespace

void bind_sampling(nb::module_& m) {
    nb::class_<quern::Sampled>(m, "Token")
        .def_ro("id", &quern::Sampled::id)
        .def_ro("logprob", &quern::Sampled::logprob)
        .def_ro("top", &quern::Sampled::top);

    nb::class_<quern::Sampler>(m, "Sampler")
        .def("__init__", &construct, nb::kw_only(), "vocabulary_size"_a, "temperature"_a = 0.0, "top_k"_a = 0,
             "top_p"_a = 1.0, "min_p"_a = 0.0, "repetition_penalty"_a = 1.0, "presence_penalty"_a = 0.0,
             "frequency_penalty"_a = 0.0, "seed"_a = uint64_t{0}, "logit_bias"_a = nb::none(),
             "top_logprobs"_a = 0)
        .def(
            "observe_prompt",
            [](quern::Sampler& sampler, const std::vector<int32_t>& ids) { sampler.observe_prompt(ids); },
            "ids"_a)
        .def(
            "observe_generated",
            [](quern::Sampler& sampler, const std::vector<int32_t>& ids) { sampler.observe_generated(ids); },
            "ids"_a)
        .def_prop_ro("position", &quern::Sampler::position)
        .def(
            "allow",
            [](quern::Sampler& sampler, const nb::bytes& mask) {
                sampler.allow({static_cast<const uint8_t*>(mask.data()), mask.size()});
            },
            "mask"_a)
        .def("sample", &sample, "logits"_a.noconvert());
}
