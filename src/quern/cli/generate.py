"""`quern generate`: one prompt, one answer, no memory."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Unpack, cast

import typer

from quern.cli.server_choice import DataDir, ServerUrl, server_address
from quern.cli.terminal import AnswerWriter, noticing_ctrl_c, read_standard_input
from quern.client import QuernClient
from quern.environment import key_of_clients
from quern.errors import ConfigError
from quern.sampling import PARAMETERS, PLAIN, PlainSampling
from quern.types import DisconnectPolicy

PromptText = Annotated[str, typer.Argument(help="What to ask; `-` reads it from standard input.", show_default=False)]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text. May be given several times.")
]

Command = TypeVar("Command", bound=Callable[..., None])


def with_sampling_options(command: Command) -> Command:
    """The same command, for typer with an option for each parameter of PlainSampling instead of `**sampling`."""
    signature = inspect.signature(command, eval_str=True)
    written = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(None, help=PARAMETERS[name].limits.get("description")),
            annotation=PARAMETERS[name].type | None,
        )
        for name in PLAIN
    ]
    in_order = sorted([*options, *written], key=lambda parameter: parameter.kind)
    cast("Any", command).__signature__ = signature.replace(parameters=in_order)
    return command


@with_sampling_options
def generate(
    prompt: PromptText,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    *,
    stop: Stop = None,
    **sampling: Unpack[PlainSampling],
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
            noticing_ctrl_c(),
            QuernClient(server_address(server, data_dir), key=key_of_clients()) as client,
            client.stream_generate(text, on_disconnect=DisconnectPolicy.CANCEL, stop=stop, **sampling) as answer,
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
