"""Sampling parameters are declared once, and what is made of them keeps to the declaration."""

from __future__ import annotations

from typing import get_type_hints

import pytest
from pydantic import ValidationError

from quern.api.code.endpoints import GenerateForm
from quern.api.llamacpp.infill_request import InfillRequest
from quern.api.openai.chat_request import ChatCompletionRequest
from quern.api.openai.completions_request import CompletionRequest
from quern.api.openai.response_request import ResponseRequest
from quern.api.shared.sampling_fields import NAMED_BY_DIALECT
from quern.config import GenerationSettings
from quern.sampling import PARAMETERS, PLAIN, PlainSampling, SamplingParams


@pytest.mark.parametrize("name", PLAIN)
def test_the_clients_options_have_the_declared_types(name: str) -> None:
    assert get_type_hints(PlainSampling)[name] == PARAMETERS[name].type | None


def test_the_settings_defaults_are_the_declared_ones() -> None:
    assert GenerationSettings().sampling() == SamplingParams()


def test_what_a_request_gives_goes_over_the_settings_and_none_gives_nothing() -> None:
    settings = GenerationSettings.model_validate({"temperature": 0.3, "top_k": 5})
    sampling = settings.sampling(temperature=0.0, top_k=None, seed=7)
    assert sampling == SamplingParams(temperature=0.0, top_k=5, seed=7)


@pytest.mark.parametrize("request_", [ChatCompletionRequest, CompletionRequest, ResponseRequest, InfillRequest])
def test_these_dialects_have_every_parameter_but_those_they_name_themselves(request_: type[InfillRequest]) -> None:
    assert PARAMETERS.keys() - NAMED_BY_DIALECT <= request_.model_fields.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", 2.1),
        ("top_p", -0.1),
        ("top_k", -1),
        ("top_k", 2**31),
        ("repetition_penalty", 11),
    ],
)
def test_a_setting_and_a_form_field_refuse_the_same_values_with_the_same_words(name: str, value: float) -> None:
    with pytest.raises(ValidationError) as setting:
        GenerationSettings.model_validate({name: value})
    with pytest.raises(ValidationError) as field:
        GenerateForm.model_validate({"prompt": "hi", name: value})
    assert [error["msg"] for error in setting.value.errors()] == [error["msg"] for error in field.value.errors()]
