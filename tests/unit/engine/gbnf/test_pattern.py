"""Regular expressions: what their grammars allow is found by the expression, and written as JSON writes it."""

from __future__ import annotations

import json
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.gbnf.reader import Gbnf

from quern.engine.gbnf.notation import Rules
from quern.engine.gbnf.pattern import pattern_rules

# A pattern, texts that it is found in, and texts that it is not.
READ: list[tuple[str, list[str], list[str]]] = [
    ("^$", [""], ["a"]),
    ("^abc$", ["abc"], ["ab", "abcd", "xabc"]),
    ("b", ["b", "abc", '\n"b\\'], ["", "a"]),
    ("^b", ["b", "bc"], ["ab"]),
    ("b$", ["b", "ab"], ["bc"]),
    ("^a|b$", ["a", "ax", "xb"], ["xa", "bx"]),
    ("^(a|b)$", ["a", "b"], ["ab"]),
    ("^(?:ab)+$", ["ab", "abab"], ["", "aba"]),
    ("^(a|)b$", ["ab", "b"], ["aab"]),
    ("^a*b+c?$", ["b", "aabbc"], ["a", "bcc"]),
    ("^a{2}b{1,}c{0,2}$", ["aab", "aabbcc"], ["ab", "aabccc"]),
    ("^a+?b*?$", ["a", "aab"], ["b"]),
    ("^[a-cx]$", ["a", "b", "x"], ["d", "-"]),
    ("^[-a]$", ["-", "a"], ["b"]),
    ("^[a-]$", ["-", "a"], ["b"]),
    ("^[^a]$", ["b", "é", '"', "\\", "\n", "😀"], ["a", ""]),
    ("^[^\\d]$", ["b", " "], ["1", "٣"]),
    (r"^\d\w\s$", ["1a ", "0_\n"], ["a1 ", "٣a "]),
    (r"^\D\W\S$", ["a-b", "\n é"[:2] + "x"], ["1-b", "a_b", "a- "]),
    (r"^\.\*\/\-\"\\$", ['.*/-"\\'], ["..//"]),
    (r"^\t\n\r\f\v$", ["\t\n\r\f\v"], ["t"]),
    (r"^\x41\u00e9[\x61-\u0063]$", ["Aéa"], ["A"]),
    ("^.$", ["a", "é", '"', "\t"], ["\n", "\u2028", ""]),
    ('^["\\\\]$', ['"', "\\"], ["a"]),
    ("^[\x01-\x02]$", ["\x01", "\x02"], ["\x03"]),
    ("^]}$", ["]}"], ["]"]),
    ("^(a(b(c)?)?)?$", ["", "abc"], ["bc"]),
    ("^(a*)*$", ["", "aaa"], ["b"]),
    ("^(a|b?)+c$", ["c", "abc"], ["ab"]),
    ("^(a+)+(ab)*$", ["a", "aaab", "aaabab"], ["ab"[1:], "aaba"]),
    ("(a|ab)(c|bcd)$", ["xabcd", "ac"], ["ab"]),
    ("^[a-z]{3,40}$", ["abc", "a" * 40], ["ab", "a" * 41]),
]


def _grammar(pattern: str) -> Gbnf:
    found = pattern_rules((pattern,))
    rules = Rules()
    rules.include(found.bodies)
    return Gbnf(rules.text(found.first))


def _written(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@pytest.mark.parametrize(("pattern", "found", "others"), READ)
def test_the_usual_texts_are_allowed_and_others_are_not(pattern: str, found: list[str], others: list[str]) -> None:
    grammar = _grammar(pattern)
    for text in found:
        assert re.search(pattern, text)
        assert grammar.matches(_written(text)), text
    for text in others:
        assert not grammar.matches(_written(text)), text


@given(st.sampled_from([pattern for pattern, _, _ in READ]), st.integers())
def test_whatever_a_grammar_allows_is_found_by_the_pattern(pattern: str, seed: int) -> None:
    assert re.search(pattern, json.loads(f'"{_grammar(pattern).draw(Random(seed))}"'))


ATOMS = st.sampled_from(["a", "b", "1", ".", "[ab]", "[^a]", r"\d", r"\w", r"\D", "", "(?:a|b1)"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@given(st.sampled_from(["", "^"]), PATTERNS, st.sampled_from(["", "$"]), st.lists(st.text("ab1", max_size=6)))
def test_an_expression_means_what_it_means_to_python(start: str, inner: str, end: str, texts: list[str]) -> None:
    pattern = f"{start}({inner}){end}"
    grammar = _grammar(pattern)
    for text in texts:
        assert grammar.matches(text) is bool(re.search(pattern, text)), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a(?=b)", "`(?=`"),
        ("(?i)a", "`(?i`"),
        ("(?P<n>a)", "`(?P`"),
        (r"\bword", r"`\b`"),
        (r"(a)\1", r"`\1`"),
        (r"\p{L}", r"`\p`"),
        (r"\u12", "without its digits"),
        (r"\ud83d", "empty"),
        ("a^b", "`^` inside"),
        ("(a$|b)", "`$` inside"),
        ("a$b", "`$` before its end"),
        ("*a", "nothing before it"),
        ("a**", "repetition of a repetition"),
        ("a++", "repetition of a repetition"),
        ("^(a{1,99}){1,99}$", "too many ways"),
        ("^a{2000}$", "too many ways"),
        ("(foo|bar|baz)[a-z]{0,30}(qux|quux)[a-z]{0,30}x", "too many ways"),
        ("^[^\\s\\S]$", "empty"),
        ("a" * 501, "longer than 500"),
        ("a{b}", "no repetition"),
        ("a{3,2}", "repetition `{3,2}`"),
        ("[]a]", "`]` at the beginning"),
        ("[b-a]", "no order"),
        (r"[a-\d]", "no order"),
        ("[a", "closing bracket is missing"),
        ("[^\\d\\D]", "empty"),
        ("(a", "closing parenthesis is missing"),
        ("a)", "closing parenthesis too many"),
        ("a\\", r"`\`"),
        ("(" * 40 + "a" + ")" * 40, "groups inside of each other"),
    ],
)
def test_what_cannot_be_said_is_named(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^it |^a closing") as refused:
        _grammar(pattern)
    assert words in str(refused.value)
