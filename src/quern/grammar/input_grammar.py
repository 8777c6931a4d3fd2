"""Grammars of custom tools' texts, as parts of the grammars of calls.

Clients write them in Lark, as OpenAI reads it, or as one regular expression. llguidance reads both, but for some
spellings that are written anew here: what `%import common.X` brings, priorities, aliases, marks before rules' names.

A model that writes its calls as JSON writes such a text as a JSON string; see `terminals.py`.

Sources: "Grammar Reference" and `common.lark` of the Lark parsing toolkit; "Context-free grammars" in OpenAI's guide
"Function calling".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from quern.errors import InvalidRequest
from quern.grammar.terminals import Terminals
from quern.types import GrammarSyntax, InputGrammar

MOST_RULES = 500

COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[a-fA-F0-9]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "FLOAT": r"[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_FLOAT": r"[+-]?([0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)",
    "NUMBER": r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "ESCAPED_STRING": r'"([^"\\\n]|\\.)*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*([^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}
"""The terminals of Lark's `common`, as regular expressions."""

STRING = r'"(?:[^"\\\n]|\\.)*"'
TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r]+|(?://|\#)[^\n]*)
  | (?P<first>{STRING})\s*\.\.\s*(?P<last>{STRING})
  | (?P<string>{STRING}i?)
  | (?P<regex>/(?:[^/\\\n]|\\.)+/[imsux]*)
  | (?P<imported>%import\s+common\s*(?:\.\s*\w+(?:\s*->\s*\w+)?|\([^)\n]*\)))
  | (?P<alias>->\s*\w+)
  | [!?]*(?P<name>_*[A-Za-z][\w-]*)(?:\.-?\d+)?
  | (?P<other>\{{\s*\d*\s*,?\s*\d*\s*\}}|%ignore\b|\.\.|\d+|[\n:|()\[\]*+?~,&])
    """,
    re.VERBOSE,
)


def embedded(grammar: InputGrammar, ending: str, *, in_json: bool) -> str:
    """The grammar of such a text and what follows it, as llguidance reads it between the braces of `%lark { … }`.

    `ending`: what follows, a terminal in Lark. `in_json`: the texts stand in JSON strings. Raises InvalidRequest with a
    sentence on what is wrong.
    """
    terminals = Terminals(in_json)
    if grammar.syntax is GrammarSyntax.REGEX:
        return f"start[lazy]: ENDED\nENDED: {terminals.pattern(grammar.definition)} {ending}\n"
    return " ".join([*_Lark(grammar.definition).written(terminals, ending), "\n"])


class _Lark:
    """A grammar in Lark, token by token, without blanks and comments. Raises InvalidRequest for what is none."""

    def __init__(self, text: str) -> None:
        self._tokens: list[re.Match[str]] = []
        done = 0
        while done < len(text):
            token = TOKEN.match(text, done)
            if token is None:
                line, rest = text.count("\n", 0, done) + 1, text[done:].partition("\n")[0][:40]
                raise InvalidRequest(f"This grammar can't be kept to: line {line} can't be read from {rest!r} on.")
            done = token.end()
            if token.lastgroup != "space":
                self._tokens.append(token)
        self._bodies = self._used_names()
        self._ignored = {after.group() for token, after in pairwise(self._tokens) if token.group() == "%ignore"}
        if len(self._bodies) > MOST_RULES:
            raise InvalidRequest(f"This grammar can't be kept to: it has more than {MOST_RULES} rules.")

    def written(self, terminals: Terminals, ending: str) -> Iterator[str]:
        """It and the terminal that follows, piece by piece. Raises InvalidRequest."""
        renamed = self._regular()
        if "start" in renamed:
            yield f"start[lazy]: ENDED\nENDED: {renamed['start']} {ending}\n"
        else:
            renamed["start"] = "text"
            yield f"start: text {ending}\n"
        defined = None
        for token, following in zip(self._tokens, [*self._tokens[1:], None], strict=True):
            match token.lastgroup:
                case "name":
                    defined = token["name"] if following is not None and following.group() == ":" else defined
                    yield renamed.get(token["name"], token["name"])
                case "regex":
                    pattern, _, flags = token["regex"][1:].rpartition("/")
                    pattern = self._once(pattern) if self._ignored & {defined, token.group()} else pattern
                    yield terminals.pattern(pattern, flags.replace("u", ""))
                case "string":
                    yield terminals.string(token["string"])
                case "last":
                    yield terminals.range(token["first"], token["last"])
                case "imported":
                    for name, pattern in _imported(token["imported"]).items():
                        once = self._once(pattern) if name in self._ignored else pattern
                        yield f"\n{name}: {terminals.pattern(once)}"
                case "alias":
                    continue
                case _:
                    yield token.group()

    @staticmethod
    def _once(pattern: str) -> str:
        """What is ignored is so any number of times; where it takes one, nothing has to be told from its going on."""
        return pattern[:-1] if pattern.endswith("+") and not pattern.endswith("\\+") else pattern

    def _regular(self) -> dict[str, str]:
        """The rules that lead to no rule that contains itself, with names by which they are terminals.

        Only within a terminal llguidance looks further ahead than one byte, and a line break is two in JSON, the end of
        a text more.
        """
        if self._ignored:
            return {}
        regular: dict[str, bool] = {}

        def is_regular(name: str) -> bool:
            if name not in regular:
                regular[name] = False
                regular[name] = all(is_regular(other) for other in self._bodies.get(name, ()))
            return regular[name]

        rules = [name for name in self._bodies if name.lstrip("_")[0].islower() and is_regular(name)]
        return {name: f"RULE{number}" for number, name in enumerate(rules)}

    def _used_names(self) -> dict[str, list[str]]:
        """The names that each definition uses."""
        bodies: dict[str, list[str]] = {}
        body: list[str] = []
        for token, following in pairwise(self._tokens):
            if token.lastgroup == "name":
                if following.group() == ":":
                    body = bodies.setdefault(token["name"], [])
                else:
                    body.append(token["name"])
        return bodies


def _imported(text: str) -> dict[str, str]:
    """Terminals of `common` by the names under which a grammar has them. Raises InvalidRequest."""
    names = re.findall(r"\w+", text.partition("common")[2])
    pairs = [(names[0], names[-1])] if "->" in text else [(name, name) for name in names]
    unknown = next((own for own, _ in pairs if own not in COMMON), None)
    if unknown is not None:
        raise InvalidRequest(f"This grammar can't be kept to: common has no terminal {unknown}.")
    return {name: COMMON[own] for own, name in pairs}
