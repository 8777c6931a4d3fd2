"""What stands around calls: `<tool_call>` tags, and what small models write instead."""

from __future__ import annotations

from quern.prompt.tools.protocols import FENCE
from quern.prompt.tools.xml_values import CALL

LIST = "["
LISTED = '{"tool_calls":['
"""Around several calls: an array, and an array in OpenAI's message."""
LIST_ENDS = {"]": LIST, "}": LISTED}
INVENTED_TAGS = tuple(
    f"<{name}>"
    for name in (
        "tools", "tool", "tool_calls", "function_call", "function_calls", "function", "response", "json", "xml", "JSON",
    )
)  # fmt: skip
"""Instead of `<tool_call>`: those that llama.cpp's parsers know, and their neighbours."""


class Surroundings:
    """Which tags and code blocks are open, and what of them is a slip.

    An opening is tried: its parts are added, and count once a call begins in it. `demanded`: the prompt has opened
    `<tool_call>`, which then needs no end.
    """

    def __init__(self, *, demanded: bool) -> None:
        self._open: list[str] = [CALL] if demanded else []
        self._opening: list[str] = []
        self._waiting_for_call = demanded
        self._needs_no_end = demanded
        self._untagged = False
        self._scraps = 0

    @property
    def in_code_block(self) -> bool:
        """Whether the call that comes next stands in a code block that no `<tool_call>` is around."""
        parts = [part for part in (*self._open, *self._opening) if part in {FENCE, CALL}]
        return parts[:1] == [FENCE]

    @property
    def in_call_tag(self) -> bool:
        """Whether what comes next is marked as a call."""
        return CALL in self._open or CALL in self._opening

    @property
    def opening(self) -> bool:
        """Whether the opening that is tried has parts."""
        return bool(self._opening)

    @property
    def tried(self) -> bool:
        """Whether it has, or leftovers of tags."""
        return bool(self._opening or self._scraps)

    @property
    def in_list(self) -> bool:
        """Whether a list of calls is open."""
        return bool({LIST, LISTED} & {*self._open, *self._opening})

    def try_opening(self) -> None:
        """Begin to try an opening."""
        self._opening = []
        self._scraps = 0

    def add_scrap(self) -> None:
        """What is left of a tag is a part of the opening; it means nothing."""
        self._scraps += 1

    def take_scraps(self) -> int:
        """The slips that the opening has in such leftovers."""
        scraps, self._scraps = self._scraps, 0
        return scraps

    def add(self, part: str) -> bool:
        """The opening that is tried goes on; whether it may: a code block is not in another."""
        if part == FENCE and FENCE in self._opening:
            return False
        self._opening.append(part)
        return True

    def enter(self) -> int:
        """A call begins. Returns the slips: what is not `<tool_call>`, or that it is missing, or has no end before."""
        tagged = CALL in self._opening
        slips = len(self._opening) - tagged + (tagged and CALL in self._open) + self.take_scraps()
        if not self._opening and not self._waiting_for_call and LIST not in self._open:
            slips += 1
        self._untagged = not self.in_call_tag
        still_open = [] if tagged else self._open
        self._open = [*dict.fromkeys(still_open + self._opening)]
        self._needs_no_end = self._needs_no_end and not tagged
        self._waiting_for_call = False
        return slips

    def closes(self, part: str) -> bool:
        """Whether the part is open."""
        return part in self._open

    def close(self, part: str) -> int:
        """Close the part. Returns the slips: one if it was not open, unless it is the end of a call without opening."""
        slips = 0
        if part in self._open:
            self._open.remove(part)
        elif not self._untagged:
            slips = 1
        self._untagged = False
        self._needs_no_end = self._needs_no_end and part != CALL
        return slips

    def leave(self) -> int:
        """Prose begins. Returns the slips: one if a `<tool_call>` has no end."""
        slips = int(CALL in self._open and not self._waiting_for_call)
        self._open = []
        self._waiting_for_call = self._needs_no_end = False
        return slips

    @property
    def lacks_end(self) -> bool:
        """Whether the answer may not end here, as a `<tool_call>` has no end."""
        return CALL in self._open and not self._needs_no_end
