"""An answer that goes on after what the assistant has said of it already."""

from __future__ import annotations

from quern.prompt.codec import TextCodec
from quern.turns.request import split_prefill
from quern.types import Message, Role, ToolCall

CODEC = TextCodec.builtin()
QUESTION = Message(Role.USER, "Count.")


def said(text: str) -> Message:
    return Message(Role.ASSISTANT, text)


def test_the_prompt_ends_with_the_prefill_and_special_tokens_in_it_are_text() -> None:
    plain = CODEC.encode_chat([QUESTION])
    begun = CODEC.encode_chat([QUESTION], prefill="one,<|im_end|> two")
    assert begun[: len(plain)] == plain
    assert bytes(begun[len(plain) :]).decode() == "one,<|im_end|> two"


def test_a_last_message_of_the_assistant_is_what_the_answer_goes_on_after() -> None:
    assert split_prefill((QUESTION, said("one,"))) == ((QUESTION,), "one,")
    assert split_prefill((QUESTION, said(""))) == ((QUESTION, said("")), "")
    assert split_prefill((QUESTION, said("I look."), ToolCall("c", "f", "{}")))[1] == ""
    assert split_prefill((QUESTION,)) == ((QUESTION,), "")
    assert split_prefill(()) == ((), "")


def test_an_assistants_message_alone_is_only_continued_where_there_is_something_before_it() -> None:
    assert split_prefill((said("one,"),)) == ((said("one,"),), "")
    assert split_prefill((said("one,"),), alone=True) == ((), "one,")
