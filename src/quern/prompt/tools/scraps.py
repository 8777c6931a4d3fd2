"""What small models leave of the format's tags beside a call: `/`, `<parameter`, `</function>` of no function."""

from __future__ import annotations

import re

from quern.prompt.tools.protocols import LONGEST_NAME
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.xml_values import TAGS

RUN = re.compile(r"[/>]+")
TAG_NAME = re.compile(r"[a-z_]+")
TAG_END = re.compile(r"[=/ \t]+")


def scrap(source: Source, *, any_tag: bool) -> Steps[bool]:
    """Read one, and return whether it is. `any_tag`: not just a whole one, or the end of one."""
    if (yield from source.whole(RUN)):
        return True
    if (yield from source.peek()) != "<":
        return False
    source.skip()
    closing = yield from source.marker(("/",))
    name = yield from source.whole(TAG_NAME, LONGEST_NAME)
    yield from source.whole(TAG_END, LONGEST_NAME)
    end = yield from source.peek()
    if name not in TAGS or not (closing or end == ">" or any_tag):
        return False
    if end == ">":
        source.skip()
    return not end or end.isspace() or end in "<>"


def loose_end(source: Source) -> Steps[int]:
    """Read what is too much at the end of a tag; return how many slips that is."""
    run = yield from source.whole(RUN)
    end = yield from source.peek()
    if run and (not end or end.isspace() or end == "<"):
        return 1
    source.unread(run)
    return 0
