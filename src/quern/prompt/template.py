"""A chat template: Jinja, as Transformers renders it.

Source of the conventions (block trimming, loop controls, `raise_exception`, `strftime_now`, `tojson` without HTML
escapes, the variables): `apply_chat_template` in Hugging Face Transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quern.errors import InvalidRequest, ModelError
from quern.prompt.special_texts import MARK, SpecialTexts, unmarked

MOST_OUTPUT = 32 * 2**20
"""Characters of a rendered prompt; the longest contexts in use are a tenth of that."""

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\nCall a function as <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


Json = Mapping[str, Any]


class ChatTemplate(Protocol):
    """Renders a conversation, ready for the assistant's next message."""

    def render(self, messages: Sequence[Json], tools: Sequence[Json] = ()) -> str:
        """`messages` and `tools` in the shape that Transformers gives to templates (`conversation.py` makes it).

        Raises InvalidRequest where the template refuses the messages, ModelError where the template fails.
        """
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


class InProcessTemplate:
    """Renders here and now. Only for templates that are known to be harmless: nothing bounds its time and memory.

    `variables`: the texts of special tokens, such as `bos_token`. `special`: the tokens whose texts are marked in what
    is rendered where they stand in the template itself or in the variables; `special_texts.py` says how. Raises
    ModelError where the template can't be parsed.
    """

    def __init__(self, source: str, variables: Mapping[str, str], special: Iterable[str] = ()) -> None:
        texts = SpecialTexts(special)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        try:
            self._template = environment.from_string(_with_marks(environment.parse(source), texts))
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(f"The model's chat template can't be parsed ({error}).") from error
        marked = {name: texts.mark(value) for name, value in variables.items()}
        self._variables = {**FUNCTIONS, **marked, "documents": None, "add_generation_prompt": True}

    def render(self, messages: Sequence[Json], tools: Sequence[Json] = ()) -> str:
        """See ChatTemplate."""
        pieces: list[str] = []
        room = MOST_OUTPUT
        try:
            for piece in self._template.generate(self._variables, messages=messages, tools=tools or None):
                room -= len(piece)
                if room < 0:
                    break
                pieces.append(piece)
        except _RefusedError as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {_message_of(error)}.") from error
        except Exception as error:  # a template may fail in any way that Python knows
            reason = f"{type(error).__name__}: {_message_of(error)}"
            raise ModelError(f"The model's chat template failed ({reason}).") from error
        if room < 0:
            raise ModelError(f"The model's chat template writes more than {MOST_OUTPUT} characters for one prompt.")
        return "".join(pieces)

    def close(self) -> None:
        """Nothing to free."""


def _with_marks(template: nodes.Template, special: SpecialTexts) -> nodes.Template:
    for data in template.find_all(nodes.TemplateData):
        data.data = special.mark(data.data)
    for constant in template.find_all(nodes.Const):
        if isinstance(constant.value, str):
            constant.value = special.mark(constant.value)
    return template


def _message_of(error: Exception) -> str:
    """What it says, without marks, also where it quotes a text of the template's."""
    return unmarked(str(error)).replace(repr(MARK)[1:-1], "")


class _RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message.rstrip("."))


FUNCTIONS = {"raise_exception": _refuse, "strftime_now": time.strftime}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
