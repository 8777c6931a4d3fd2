"""Languages that answers are texts of, as grammars. Pure."""

from __future__ import annotations

import re

from quern.errors import InvalidRequest
from quern.grammar.kinds import LarkGrammar
from quern.types import Language, Syntax

OPTIONS = "%llguidance"
PART = re.compile(r"\\.|/|\n|\r", re.DOTALL)
"""Of a regular expression: what is escaped in it, and what has to be where it stands between slashes."""
ESCAPES = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}


def language_grammar(language: Language, field: str | None = None) -> LarkGrammar:
    """The grammar of an answer that is a text of the language. Whether it can be kept to is for an engine to say.

    `field`: the request's that asks for it. Raises InvalidRequest.
    """
    if language.syntax is Syntax.REGEX:
        return LarkGrammar(regex_rule(language.definition))
    if OPTIONS in language.definition:
        raise InvalidRequest(
            f"A grammar can't set options of its own here. Leave the line with {OPTIONS} out.", field=field
        )
    return LarkGrammar(language.definition)


def regex_rule(pattern: str, rule: str = "start") -> str:
    """Lark's rule of the texts that the expression matches as a whole; so anchors at its ends say nothing."""
    pattern = pattern.removeprefix("^")
    if re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern):
        pattern = pattern[:-1]
    if not pattern:
        return f'{rule}: ""\n'
    terminal = rule.upper() + "_TEXT"
    return f"{rule}: {terminal}\n{terminal}: /{PART.sub(lambda part: ESCAPES.get(part[0], part[0]), pattern)}/\n"
