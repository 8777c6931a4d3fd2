"""What a server gets as salts."""

from __future__ import annotations

import pytest

from quern.engine.base import GenerateRequest
from quern.engine.completions import salts
from quern.engine.completions.salts import Salts
from quern.sampling import SamplingParams


def of(made: Salts, salt: str, tag: str = "") -> str:
    return made.of(GenerateRequest((1,), SamplingParams(), cache_salt=salt, cache_tag=tag))


def test_each_owner_has_one_that_stays_and_that_nobody_can_guess() -> None:
    made = Salts()
    assert of(made, "ann") == of(made, "ann", "a conversation")
    assert len({of(made, "ann"), of(made, "bob"), of(made, ""), of(Salts(), "ann")}) == 4


def test_where_something_is_forgotten_its_owners_becomes_another_and_nobody_elses() -> None:
    made = Salts()
    ann, bob = of(made, "ann", "hers"), of(made, "bob", "his")
    made.forget({"hers", "of nobody", ""})
    assert of(made, "ann") != ann
    assert of(made, "bob") == bob
    again = of(made, "ann", "hers")
    made.forget({"another"})
    assert of(made, "ann") == again


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salts, "MOST_TAGS", 2)
    made = Salts()
    before = [of(made, salt, salt) for salt in ("a", "b", "c")]
    made.forget({"a", "b", "c"})
    assert [of(made, salt) == known for salt, known in zip(("a", "b", "c"), before, strict=True)] == [
        True,
        False,
        False,
    ]
