"""Objects and arrays, as GBNF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quern.engine.gbnf.characters import RAW, without
from quern.engine.gbnf.notation import NOTHING, QUOTE, Rules, either, literal, one_of

LONGEST_COMPARED = 64
"""Names of members that are as long are told apart by so many characters; what begins like one of them is left out."""


@dataclass(frozen=True, slots=True)
class Member:
    """`rule` is that of its name and its value."""

    rule: str
    required: bool


def object_text(members: Sequence[Member], additional: str | None, rules: Rules) -> str:
    """A rule for an object of these members in this order, then any number of `additional` ones."""
    # Backwards: what may follow once something is written.
    follows = [f'("," space {additional})*' if additional else NOTHING]
    for member in reversed(members):
        follows.insert(0, rules.add(f'("," space {member.rule}){"" if member.required else "?"} {follows[0]}'))
    beginnings: list[str] = []
    for member, rest in zip(members, follows[1:], strict=True):
        beginnings.append(f"{member.rule} {rest}")
        if member.required:
            return rules.add(f'"{{" space {either(beginnings)} space "}}"')
    if additional:
        beginnings.append(f"{additional} {follows[-1]}")
    return rules.add(f'"{{" space ({either(beginnings)} space)? "}}"') if beginnings else literal("{}")


def array_text(first: Sequence[str], more: str | None, low: int, high: int | None, rules: Rules) -> str:
    """A rule for an array: the items `first`, then from `low` to `high` of the rule `more`."""
    following = "".join(f' "," space {item}' for item in first[1:])
    if more is None or high == 0:
        return rules.add(f'"[" space {first[0]}{following} space "]"') if first else literal("[]")
    item = rules.add(f'"," space {more}')
    if first:
        return rules.add(f'"[" space {first[0]}{following} {rules.repeat(item, low, high)} space "]"')
    others = rules.repeat(item, max(low - 1, 0), None if high is None else high - 1)
    return rules.add(f'"[" space ({more} {others} space){"" if low else "?"} "]"')


def other_name(names: Sequence[str], rules: Rules) -> str:
    """A rule for a member's name that is none of these, written without escapes."""
    return rules.add(f"{QUOTE} {_differing(names, 0, rules)} {QUOTE}")


def _differing(names: Sequence[str], depth: int, rules: Rules) -> str:
    continued = sorted({name[0] for name in names if name})
    others = without(RAW, tuple((ord(character), ord(character)) for character in continued))
    alternatives = [f"{one_of(others)} {one_of(RAW)}*"]
    if "" not in names:
        alternatives.append(NOTHING)
    for character in continued:
        if depth < LONGEST_COMPARED:
            rest = [name[1:] for name in names if name.startswith(character)]
            alternatives.append(f"{literal(character)} {_differing(rest, depth + 1, rules)}")
    return rules.add(either(alternatives))
