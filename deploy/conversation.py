"""Four turns of one conversation with a Quern, each with the history of those before: what of it did a cache have?

For the smoke tests. Prints the share of the later turns' prompts that was found; exits with 1 where a turn fails.

    python deploy/conversation.py http://127.0.0.1:8001
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.request import Request, urlopen

FIRST = "Here is a list of facts. " + " ".join(
    f"Item {number} costs {number * 7} and weighs {number}." for number in range(40)
)
NEXT = ("Which is the lightest?", "And which is the heaviest?", "Say that in one word.")


def turn(url: str, messages: list[dict[str, str]]) -> tuple[str, int, int]:
    """An answer's text, the prompt's tokens, and how many of them were found in a cache."""
    key = os.environ.get("QUERN_API_KEY", "")  # noqa: TID251 (a program of its own)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    body = {"messages": messages, "max_tokens": 16, "temperature": 0}
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    with urlopen(request, timeout=300) as response:  # noqa: S310 (a URL that a person gives)
        answer: dict[str, Any] = json.load(response)
    usage = answer["usage"]
    return (
        answer["choices"][0]["message"]["content"],
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def main() -> None:
    """Ask, and say what was found."""
    url = sys.argv[1]
    messages, sent, found = [{"role": "user", "content": f"{os.urandom(8).hex()} {FIRST}"}], 0, 0
    for question in (*NEXT, ""):
        text, prompt, cached = turn(url, messages)
        if len(messages) > 1:
            sent, found = sent + prompt, found + cached
        messages += [{"role": "assistant", "content": text or "-"}, {"role": "user", "content": question}]
    print(f"{found / sent:.2f}")


if __name__ == "__main__":
    main()
