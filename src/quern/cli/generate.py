"""`quern generate`: one prompt, one answer, no memory."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quern.cli.terminal import DEFAULT_SERVER, AnswerWriter, ServerUrl, read_standard_input
from quern.client import QuernClient
from quern.errors import ConfigError
from quern.types import DisconnectPolicy

PromptText = Annotated[str, typer.Argument(help="What to ask; `-` reads it from standard input.", show_default=False)]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens of the answer.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the likeliest tokens of this total.")]
TopK = Annotated[int | None, typer.Option(help="Sample from so many of the likeliest tokens.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1: repeat what is there less readily.")]
Seed = Annotated[int | None, typer.Option(help="The same seed and prompt give the same answer.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text. May be given several times.")
]


def generate(
    prompt: PromptText,
    server: ServerUrl = DEFAULT_SERVER,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Ask once and print the answer while it is written.

    The answer alone goes to standard output, so it can be piped. Whatever is not given here is the server's default.
    Ctrl-C cancels the answer on the server, too.

    Examples:

    - `quern generate "Bubble sort in Python, the function only"`

    - `git diff | quern generate - --temperature 0 > review.md`
    """
    text = read_standard_input() if prompt == "-" else _checked(prompt)
    try:
        with (
            QuernClient(server) as client,
            client.stream_generate(
                text,
                on_disconnect=DisconnectPolicy.CANCEL,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                repetition_penalty=repetition_penalty,
                seed=seed,
                stop=stop,
            ) as answer,
            AnswerWriter(sys.stdout) as writer,
        ):
            for piece in answer:
                writer.write(piece)
    except KeyboardInterrupt:
        typer.echo("Cancelled, on the server too; the answer is not complete.", err=True)
        raise typer.Exit(130) from None


def _checked(prompt: str) -> str:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError("The prompt is not valid UTF-8 text; pass it on standard input with `-`.") from error
    return prompt
