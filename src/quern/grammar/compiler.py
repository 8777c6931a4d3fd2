"""Grammars that an answer is kept to while it is drawn: the only module that imports llguidance.

The sampler gets a mask of the ids that may come next. Only here does the engine need to know which bytes its ids stand
for; it takes them from a `Vocabulary` and shows them to nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from quern.errors import GrammarExhausted, InvalidRequest
from quern.grammar.json_schema import Llguidance, for_llguidance
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.refusals import reason, too_complex
from quern.grammar.schema_walk import place_of

LIMITS = {
    Llguidance.OWN: LLParserLimits(
        initial_lexer_fuel=200_000,
        max_lexer_states=50_000,
        max_items_in_row=10_000,
        step_max_items=200_000,
        verbose_errors=False,
    ),
    **dict.fromkeys(
        (Llguidance.LLAMA_CPP, Llguidance.VLLM),
        LLParserLimits(initial_lexer_fuel=200_000, max_lexer_states=50_000, verbose_errors=False),
    ),
}
"""Less than llguidance's own of what takes memory: a grammar takes 50 MB at most instead of 200, and an answer as much
again. More of what many optional properties need where JSON may be laid out: with its own, 300 of them end an answer in
its middle. llama.cpp and vLLM have llguidance's own. Errors don't repeat the answer.
"""
UNKNOWN_FORMATS = {Llguidance.OWN: (), Llguidance.LLAMA_CPP: ("uri",), Llguidance.VLLM: ()}
"""Those of a JSON schema that only our llguidance knows."""
SECONDS = 1.0
SECONDS_PER_TOKEN = 1e-3
"""Of the processor's time, for the grammar of one answer: a store, and what each token puts back into it. All others
wait for a mask; it usually takes 50 µs, and with a hostile grammar 50 ms.
"""
READ_AT_ONCE = 256
"""Tokens of an answer that goes on; between them the time that they took is counted."""
NOT_ALLOWED = ("doesn't satisfy the grammar", "out of range")
"""What llguidance says of a token that a grammar does not allow."""
OF_ANOTHER_GRAMMAR = (
    "What there is of this answer does not follow its grammar, so the answer can't go on from there. Ask for a new one."
)
SILENT = 0


class SpecialTexts(Protocol):
    """Special tokens: ids by text. They are never part of a text that a grammar describes by its characters; llama.cpp
    takes the user-defined ones for that.
    """

    @property
    def control(self) -> Mapping[str, int]: ...
    @property
    def user_defined(self) -> Mapping[str, int]: ...


class Vocabulary(Protocol):
    """A model's tokens; the tokenizer of its prompts is one.

    `encode` gives the ids that the model itself would write a text with: where a grammar leaves only one way to go on,
    that one is taken in those.
    """

    vocabulary_size: int

    @property
    def special(self) -> SpecialTexts: ...
    @property
    def end_of_turn_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...
    def encode(self, text: str, /) -> Sequence[int]: ...


class Constraint:
    """How far one answer is in its grammar. For one thread."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._seconds_left = SECONDS

    @property
    def failure(self) -> str:
        """Why the grammar can't be kept to any longer, as a sentence; empty while it can."""
        if self._matcher.is_error():
            why = reason(self._matcher.get_error(), [])
        elif self._seconds_left < 0:
            why = too_complex([])
        else:
            return ""
        return f"The grammar of this answer could not be kept to any longer, so the answer was lost: {why}."

    @property
    def complete(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._matcher.is_stopped()

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    def mask(self) -> bytes:
        """A bit for each id that may be drawn next, as the native sampler takes them; see `failure` afterwards."""
        self._seconds_left = min(self._seconds_left + SECONDS_PER_TOKEN, SECONDS)
        with self._timed():
            return self._matcher.compute_bitmask()

    def consume(self, ids: Iterable[int]) -> None:
        """These were drawn; see `failure` afterwards."""
        with self._timed():
            self._matcher.consume_tokens(list(ids))

    def go_on(self, generated: Sequence[int]) -> None:
        """These were drawn in an earlier life of the answer.

        Raises InvalidRequest where the grammar doesn't allow them, and GrammarExhausted where it takes too much work to
        tell.
        """
        for start in range(0, len(generated), READ_AT_ONCE):
            part = generated[start : start + READ_AT_ONCE]
            self._seconds_left = min(self._seconds_left + len(part) * SECONDS_PER_TOKEN, SECONDS)
            self.consume(part)
            if self._matcher.is_error() and any(text in self._matcher.get_error() for text in NOT_ALLOWED):
                raise InvalidRequest(OF_ANOTHER_GRAMMAR)
            if self.failure:
                raise GrammarExhausted(self.failure)

    @contextmanager
    def _timed(self) -> Generator[None]:
        began = time.thread_time()
        yield
        self._seconds_left -= time.thread_time() - began


class CompiledGrammar:
    """A grammar at its beginning. `lark`: its text, as llguidance keeps to it. `size` in bytes of memory, as far as it
    is known.
    """

    def __init__(self, matcher: LLMatcher, lark: str, size: int = 0) -> None:
        self._matcher = matcher
        self._lock = threading.Lock()
        self.lark = lark
        self.size = size

    def constraint(self, generated: Sequence[int] = ()) -> Constraint:
        """For one answer, of which there is what was `generated`. Takes a millisecond where the grammar is large.

        Raises what `Constraint.go_on` does.
        """
        with self._lock:
            constraint = Constraint(self._matcher.deep_copy())
        constraint.go_on(generated)
        return constraint


class GrammarCompiler:
    """Compiles grammars for a model with `ids` ids, of which `vocabulary` may know fewer. Safe to use from threads.

    `llguidance`: whose keeps to them; whatever it is, they are compiled as it would. To make one takes half a second,
    and keeps other threads from running for most of that.
    """

    def __init__(self, vocabulary: Vocabulary, ids: int, llguidance: Llguidance = Llguidance.OWN) -> None:
        self._special = {**vocabulary.special.control, **vocabulary.special.user_defined}
        self._llguidance = llguidance
        special = vocabulary.special.control if llguidance is Llguidance.LLAMA_CPP else self._special
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary, ids, special.values())),
            eos_token=sorted(vocabulary.end_of_turn_ids) or None,
        )

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Takes milliseconds, and some seconds at worst. Raises InvalidRequest with a sentence that says which part."""
        lark, schemas = for_llguidance(grammar, self._special, self._llguidance)
        kind = "JSON schema" if isinstance(grammar, JsonGrammar) else "grammar"
        for name in UNKNOWN_FORMATS[self._llguidance]:
            if place_of(schemas, "format", name):
                raise InvalidRequest(f"This {kind} can't be kept to: {reason(f'Unknown format: {name}', schemas)}.")
        try:
            text = LLMatcher.grammar_from_lark(lark)
            matcher = LLMatcher(self._tokenizer, text, log_level=SILENT, limits=LIMITS[self._llguidance])
        except ValueError as error:
            message = str(error)
        else:
            matcher.compute_bitmask()  # finds what nothing satisfies
            if not matcher.is_stopped():
                return CompiledGrammar(matcher, lark)
            message = matcher.get_error() or matcher.stop_reason()
        raise InvalidRequest(f"This {kind} can't be kept to: {reason(message, schemas)}.")


class _Tokens:
    """A vocabulary in the shape that llguidance's `TokenizerWrapper` wants. `special`: ids that are no text."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, ids: int, special: Iterable[int]) -> None:
        self.tokens = [vocabulary.token_bytes(token_id) for token_id in range(vocabulary.vocabulary_size)]
        self.tokens += [b""] * (ids - len(self.tokens))
        for texts in (vocabulary.special.control, vocabulary.special.user_defined):
            for text, token_id in texts.items():
                self.tokens[token_id] = text.encode()
        self.special_token_ids = sorted(special)
        self.eos_token_id = min(vocabulary.end_of_turn_ids, default=None)
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> Sequence[int]:
        return self._encode(text)
