"""`quern generate` as a process, against a real server."""

from __future__ import annotations

import json
import signal

import pytest
from tests.unit.cli.command import Command
from tests.unit.client.scripted_server import End, Scripted, ScriptedServer

GENERATE = "/v1/code/generate"


def test_the_answer_alone_goes_to_standard_output_with_a_final_newline(
    command: Command, server: ScriptedServer
) -> None:
    server.answer(GENERATE, Scripted(("# 冒泡".encode()[:4], "# 冒泡".encode()[4:], b"\n\tpass\x1b[0m")))
    done = command.run("generate", "Bubble sort", "--server", server.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == "# 冒泡\n\tpass\x1b[0m\n".encode()


def test_a_final_newline_is_not_doubled(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"pass\n",)))
    assert command.run("generate", "Hi", "--server", server.url).stdout == b"pass\n"


def test_every_option_reaches_the_server_and_nothing_else_is_sent(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted())
    options = {
        "max-tokens": "9",
        "temperature": "0.5",
        "top-p": "0.75",
        "top-k": "3",
        "repetition-penalty": "1.25",
        "seed": "7",
    }
    sampling = [f"--{name}={value}" for name, value in options.items()]
    command.run("generate", "Hi", "--server", server.url, *sampling, "--stop", "END", "--stop", "```")
    command.run("generate", "Hi", "--server", server.url)
    full, plain = server.received
    sent = {name.replace("-", "_"): [value] for name, value in options.items()}
    assert full.form == {"prompt": ["Hi"], "stop": ["END", "```"], **sent}
    assert plain.form == {"prompt": ["Hi"]}
    assert plain.headers["x-quern-on-disconnect"] == "cancel"


def test_a_dash_reads_the_prompt_from_standard_input(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted())
    command.run("generate", "-", "--server", server.url, stdin="两行\nof it\n".encode())
    assert server.received[0].form["prompt"] == ["两行\nof it\n"]


@pytest.mark.parametrize("arguments", [["-"], ["\udcff"]])
def test_a_prompt_that_is_not_utf_8_is_refused_before_anything_is_sent(
    command: Command, server: ScriptedServer, arguments: list[str]
) -> None:
    done = command.run("generate", *arguments, "--server", server.url, stdin=b"\xff\xfe")
    assert (done.returncode, server.received) == (2, [])
    assert b"UTF-8" in done.stderr


def test_a_refusal_is_the_servers_sentence_and_exit_code_1(command: Command, server: ScriptedServer) -> None:
    body = json.dumps({"detail": "模型正在加载: try again in 7 seconds."}).encode()
    server.answer(GENERATE, Scripted((body,), 503, "application/json", {"retry-after": "7"}))
    done = command.run("generate", "Hi", "--server", server.url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == "模型正在加载: try again in 7 seconds.\n"


def test_a_broken_answer_keeps_what_came_and_says_that_it_is_not_whole(
    command: Command, server: ScriptedServer
) -> None:
    server.answer(GENERATE, Scripted((b"def f(",), end=End.BROKEN))
    done = command.run("generate", "Hi", "--server", server.url)
    assert (done.returncode, done.stdout) == (1, b"def f(\n")
    assert b"ended before the answer did" in done.stderr
    assert b"Traceback" not in done.stderr


def test_ctrl_c_cancels_on_the_server_and_exits_with_130(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"and so",), end=End.NEVER))
    with command.started("generate", "Go on", "--server", server.url) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"and so"
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=30)
        assert process.returncode == 130
        assert server.client_gone.wait(30)
    assert rest == b"\n"
    assert complaint.startswith(b"Cancelled")
    assert complaint.count(b"\n") == 1


def test_ctrl_c_before_the_first_word_cancels_as_well(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted(silent=True))
    with command.started("generate", "Go on", "--server", server.url) as process:
        server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=30)
        assert (process.returncode, rest) == (130, b"")
        assert complaint.startswith(b"Cancelled")
        assert server.client_gone.wait(30)


def test_a_reader_that_has_enough_ends_it_quietly_and_cancels(command: Command, server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"one\n", *(b"more\n" for _ in range(200))), end=End.NEVER))
    with command.started("generate", "Go on", "--server", server.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
        assert server.client_gone.wait(30)


def test_on_a_terminal_escape_sequences_of_the_model_are_shown_and_not_obeyed(
    command: Command, server: ScriptedServer
) -> None:
    server.answer(GENERATE, Scripted((b"red: \x1b[31m", b"done")))
    with command.at_terminal("generate", "Hi", "--server", server.url) as terminal:
        assert terminal.expect("done") == "red: \N{SYMBOL FOR ESCAPE}[31m"
        assert terminal.expect_end() == 0
