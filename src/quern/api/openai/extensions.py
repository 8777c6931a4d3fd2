"""What clients of OpenAI's two older APIs send beside the vendor's own fields: vLLM's, llama.cpp's, and editors'."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from quern.api.openai.schemas import GuidedFields
from quern.api.shared.fields import NoOp, RequestObject
from quern.api.shared.sampling_fields import SamplingFields
from quern.config import GenerationSettings
from quern.sampling import PARAMETERS, SamplingParams


class TemplateArguments(RequestObject):
    """Variables of a chat template. Those of thinking say nothing to models that do not think aloud."""

    enable_thinking: NoOp = None
    preserve_thinking: NoOp = None
    thinking: NoOp = None
    thinking_budget: NoOp = None


class ExtendedFields(SamplingFields, GuidedFields):
    """Fields of Chat Completions and Completions that OpenAI does not have."""

    repeat_penalty: float | None = PARAMETERS["repetition_penalty"].field(
        default=None, description="llama.cpp's name of repetition_penalty."
    )
    ignore_eos: bool | None = Field(default=None, description="Go on where the model would end.")
    chat_template_kwargs: TemplateArguments | None = None
    add_special_tokens: NoOp = None
    cache_prompt: NoOp = None
    cache_salt: NoOp = None
    enable_thinking: NoOp = None
    extra: NoOp = None
    id_slot: NoOp = None
    keep_alive: NoOp = None
    nwo: NoOp = None
    priority: NoOp = None
    reasoning: NoOp = None
    request_id: NoOp = None
    samplers: NoOp = None
    skip_special_tokens: NoOp = None
    spaces_between_special_tokens: NoOp = None
    thinking: NoOp = None
    user: NoOp = None

    def sampling(self, defaults: GenerationSettings, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """These values over the defaults."""
        sampling = super().sampling(defaults, max_tokens=max_tokens, logprobs=logprobs)
        if self.repeat_penalty is not None and "repetition_penalty" not in self.model_fields_set:
            sampling = replace(sampling, repetition_penalty=self.repeat_penalty)
        return replace(sampling, ignore_eos=self.ignore_eos is True)
