"""A conversation made short: the model's own summary of it, in the form in which clients hand it on.

OpenAI's servers give out what only they can read. Here it is the summary itself, with a mark of whose it is: nothing
of a conversation is in it that its client has not said, and no key is needed to read it after a restart.

Source of the shapes: "Compact a response" in OpenAI's API reference.
"""

from __future__ import annotations

import base64
import binascii

MARK = "quern-summary-1:"
TASK = (
    "The conversation so far will be left out from now on, and another assistant goes on with the work from your "
    "summary alone. Write that summary: what the user wants, what was done and found, which files and names matter, "
    "and what is left to do. Write nothing else, and call no tool."
)
"""What the model is asked for."""
HEADING = "This is a summary of the conversation before:"


def sealed(summary: str) -> str:
    """A summary as an item's `encrypted_content`."""
    return MARK + base64.b64encode(f"{HEADING}\n{summary.strip()}".encode()).decode()


def summary_of(content: str) -> str | None:
    """What the model is shown of such a content; None where it is not of this server's making."""
    if not content.startswith(MARK):
        return None
    try:
        return base64.b64decode(content.removeprefix(MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
