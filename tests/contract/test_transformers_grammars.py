"""What the child that runs Transformers takes tokens for, against what Quern takes them for."""

from __future__ import annotations

from pathlib import Path

import pytest

from quern.engine.transformers.child.completion import Refused
from quern.engine.transformers.child.grammars import Grammars, Tokens
from quern.prompt.codec import TextCodec


@pytest.fixture(scope="module")
def codec(model_folder: Path) -> TextCodec:
    return TextCodec.load(model_folder)


def test_every_token_is_the_same_bytes_and_every_text_the_same_tokens(model_folder: Path, codec: TextCodec) -> None:
    ours = codec.tokenizer
    tokens = Tokens((model_folder / "tokenizer.json").read_text(encoding="utf-8"), ours.vocabulary_size, [5])
    special = {**ours.special.control, **ours.special.user_defined}
    for token_id in range(ours.vocabulary_size):
        if token_id not in special.values():
            assert tokens.tokens[token_id] == ours.token_bytes(token_id)
    assert {token: tokens.tokens[token].decode() for token in special.values()} == {v: k for k, v in special.items()}
    assert set(tokens.special_token_ids) == set(special.values())
    for text in ("def f(x):\n    return x + 1\n", "你好，世界", "a\tb  c🙂", "<|im_end|> is a name"):
        assert list(tokens(text)) == list(ours.encode(text))


def test_a_grammar_is_kept_to_and_one_that_is_none_refused(model_folder: Path, codec: TextCodec) -> None:
    grammars = Grammars(str(model_folder), codec.vocabulary_size, sorted(codec.tokenizer.end_of_turn_ids))
    constraint = grammars.compile('start: "yes"')
    for token in codec.tokenizer.encode("yes"):
        assert not constraint.failure
        constraint.consume(token)
    assert constraint.complete or not constraint.failure
    with pytest.raises(Refused, match="This grammar can't be kept to"):
        grammars.compile("nonsense")
