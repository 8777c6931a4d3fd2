"""From what was said to what an engine is given: the prompt's ids, what may be drawn, how the answer is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from quern.errors import InvalidRequest
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.languages import language_grammar
from quern.grammar.schema_relaxing import relaxed, relaxed_text
from quern.grammar.tool_calls import OPENING, call_inputs, calls_or_json, demanded_call
from quern.prompt.chat import text_of
from quern.prompt.codec import TextCodec
from quern.prompt.tools.answer_parser import answer_parser
from quern.prompt.tools.protocols import AnswerParser
from quern.turns.identity import call_id
from quern.turns.loops import RepeatedCall, repeated_call
from quern.turns.request import CallMode, ChatInput, TokenInput, ToolUse
from quern.types import Item, Message, Role, Tool

LONG_PROMPT = 2**16
"""Characters. What has more is prepared one at a time: that may take a second, and a multiple of its memory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt that can be generated from.

    `grammars`: the answer is kept to the first of these that the engine can keep to, if there are any; `grammar_field`
    of the request asks for that, and where it demands a call, it is one of the tools `demanded`. `single_call`: the
    answer ends after its first call. `ignored`: what the schemas ask and the grammars don't keep to, as sentences.
    `repeated`: the call that the answer ends before, as it would only go on with a loop.
    """

    ids: tuple[int, ...]
    grammars: tuple[Grammar, ...] = ()
    grammar_field: str | None = None
    demanded: tuple[Tool, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    single_call: bool = False
    ignored: tuple[str, ...] = ()
    repeated: RepeatedCall | None = None


def prepare(
    codec: TextCodec,
    history: Sequence[Item],
    given: ChatInput | TokenInput,
    most: int | None = None,
    *,
    loop_calls: int = 0,
) -> Prepared:
    """Takes milliseconds, a long history some hundreds, so call it in a thread. `most`: tokens of a prompt.
    `loop_calls`: repeats of calls from which on they are a loop.

    Raises InvalidRequest for what the model can't be asked, ContextExceeded where it is longer by far than `most`,
    ModelError where its template fails.
    """
    check_writes(codec)
    if isinstance(given, TokenInput):
        if not given.ids:
            raise InvalidRequest("The prompt is empty. Send some text to continue.", field="prompt")
        check_ids(given.ids, codec.vocabulary_size, "prompt")
        grammars, ignored = _grammars(given)
        return Prepared(given.ids, grammars, given.schema_field, stop_token_ids=given.stop_token_ids, ignored=ignored)
    before = [Message(Role.SYSTEM, given.instructions)] if given.instructions is not None else []
    items = [*before, *history, *given.items]
    tools = offered_tools(given.tool_use)
    if not tools:
        ids = codec.encode_chat(items, prefill=given.prefill, most=most)
        grammars, ignored = _grammars(given)
        return Prepared(ids, grammars, given.schema_field, ignored=ignored)
    prepared = _with_tools(codec, items, given, tools, most)
    return replace(prepared, repeated=repeated_call(items, loop_calls))


class Prompts:
    """Prepares prompts in threads. `most_tokens`: those of the model's context."""

    def __init__(self, codec: TextCodec, most_tokens: Callable[[], int]) -> None:
        self._codec = codec
        self._most_tokens = most_tokens
        self._long = ThreadPoolExecutor(1, thread_name_prefix="quern-long-prompts")

    async def prepare(self, history: Sequence[Item], given: ChatInput | TokenInput, loop_calls: int = 0) -> Prepared:
        """See `prepare`."""
        work = partial(prepare, self._codec, history, given, self._most_tokens(), loop_calls=loop_calls)
        if prompt_size(history, given) <= LONG_PROMPT:
            return await asyncio.to_thread(work)
        # One at a time, and not in the threads that everybody's short prompts wait for.
        return await asyncio.get_running_loop().run_in_executor(self._long, work)


def prompt_size(history: Sequence[Item], given: ChatInput | TokenInput) -> int:
    """About how many characters are made a prompt."""
    if isinstance(given, TokenInput):
        return 0
    return len(given.instructions or "") + sum(len(text_of(item)) for item in (*history, *given.items))


def check_writes(codec: TextCodec) -> None:
    """Raises InvalidRequest where the model makes embeddings and writes no text."""
    if codec.facts.embeds:
        raise InvalidRequest(
            f"The served model {codec.facts.name!r} makes embeddings and writes no text: ask it at /v1/embeddings. For "
            f"answers serve a model that writes, as `quern serve --model qwen2.5-coder-1.5b` does.",
            field="model",
        )


def offered_tools(use: ToolUse) -> tuple[Tool, ...]:
    """The tools that the model may call."""
    return () if use.mode is CallMode.NONE else use.tools


def call_parser(codec: TextCodec, use: ToolUse, turn_id: str) -> AnswerParser | None:
    """What finds the calls in a turn's answer to a prompt with these tools."""
    if not offered_tools(use) or codec.tool_format is None:
        return None
    opened = use.mode is CallMode.REQUIRED
    return answer_parser(codec.tool_format, callable_tools(use), partial(call_id, turn_id), opened=opened)


def callable_tools(use: ToolUse) -> tuple[Tool, ...]:
    """Those of the shown tools that an answer may call."""
    return tuple(tool for tool in offered_tools(use) if use.only in {None, tool.name})


def check_ids(ids: Collection[int], vocabulary_size: int, field: str) -> None:
    """Raises InvalidRequest where the model has no such id."""
    if ids and (min(ids) < 0 or max(ids) >= vocabulary_size):
        raise InvalidRequest(
            f"The field {field} has a token id that the model doesn't have: ids are 0 to {vocabulary_size - 1}. "
            f"`/tokenize` gives a text's ids.",
            field=field,
        )


def _grammars(given: ChatInput | TokenInput) -> tuple[tuple[Grammar, ...], tuple[str, ...]]:
    """What an answer without calls is kept to, and what the schema asks and isn't kept to. Raises InvalidRequest."""
    if given.schema is not None:
        schema, ignored = relaxed_text(given.schema)
        return (JsonGrammar(schema),), ignored
    return ((language_grammar(given.language, given.schema_field),) if given.language is not None else ()), ()


def _with_tools(
    codec: TextCodec, items: Sequence[Item], given: ChatInput, tools: tuple[Tool, ...], most: int | None
) -> Prepared:
    use = given.tool_use
    if codec.tool_format is None:
        raise InvalidRequest(
            "This model's chat template knows no tools, so it can't be shown any. Leave the tools out, or serve a "
            "Qwen-Coder model.",
            field="tools",
        )
    demanded = callable_tools(use) if use.mode is CallMode.REQUIRED else ()
    if demanded:
        demanded, ignored = _relaxed_tools(demanded)
        grammars: tuple[Grammar, ...] = demanded_call(codec.tool_format, demanded)
    elif given.schema is not None:
        schema, ignored = relaxed_text(given.schema)
        grammars = (calls_or_json(schema),)
    else:
        grammars, ignored = _grammars(given)
        grammars = grammars or call_inputs(codec.tool_format, tools)
    return Prepared(
        ids=codec.encode_chat(items, tools, OPENING if demanded else "", prefill=given.prefill, most=most),
        grammars=grammars,
        grammar_field="tools" if demanded or given.schema_field is None else given.schema_field,
        demanded=demanded,
        single_call=not use.parallel,
        ignored=ignored,
    )


def _relaxed_tools(tools: Sequence[Tool]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools with parameters that can rather be kept to, and what of them won't be."""
    found = [(tool, relaxed(tool.parameters)) for tool in tools]
    ignored = tuple(f"Tool {tool.name!r}: {sentence}" for tool, parameters in found for sentence in parameters.ignored)
    return tuple(replace(tool, parameters=parameters.schema) for tool, parameters in found), ignored
