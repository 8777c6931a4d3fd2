"""`quern chat` as a process: at a real (pseudo-)terminal and with pipes."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import pytest
from tests.unit.cli.command import Command
from tests.unit.client.scripted_server import End, Scripted, ScriptedServer

CHAT = "/v1/code/chat_stream"
CONVERSATION = "0b8b9c1e-3f0a-4a42-9a57-0a4f2d8d6c11"
HEADER = f"conversation_id:{CONVERSATION}\n---\n".encode()
EVENT_STREAM = "text/event-stream; charset=utf-8"


def answer(*chunks: bytes, end: End = End.CLEAN) -> Scripted:
    return Scripted(chunks, media_type=EVENT_STREAM, end=end)


@pytest.fixture(autouse=True)
def a_served_model(server: ScriptedServer) -> None:
    body = b'{"object": "list", "data": [{"id": "qwen2.5-coder-0.5b"}]}'
    server.answer("/v1/models", Scripted((body,), media_type="application/json"))


def turns(server: ScriptedServer) -> list[dict[str, list[str]]]:
    return [request.form for request in server.received if request.path == CHAT]


def test_two_turns_at_a_terminal_are_one_conversation(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"), answer(b"Again"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        greeting = terminal.expect_prompt()
        assert "qwen2.5-coder-0.5b" in greeting
        assert "Alt-Enter" in greeting
        terminal.type("你好\r")
        terminal.expect("Hello\r\n")
        terminal.expect_prompt()
        terminal.type("Once more\r")
        terminal.expect("Again\r\n")
        terminal.expect_prompt()
        terminal.type("\x04")
        terminal.expect(f"quern chat --conversation {CONVERSATION} --server {server.url}\r\n")
        assert terminal.expect_end() == 0
    assert turns(server) == [
        {"prompt": ["你好"]},
        {"prompt": ["Once more"], "conversation_id": [CONVERSATION]},
    ]
    assert {request.headers.get("x-quern-on-disconnect") for request in server.received if request.form} == {"cancel"}


def test_ctrl_c_cancels_the_answer_and_the_conversation_goes_on(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"and so", end=End.NEVER), answer(b"Fine"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        terminal.type("Go on\r")
        terminal.expect("and so")
        terminal.type("\x03")
        terminal.expect("Cancelled")
        assert server.client_gone.wait(30)
        terminal.expect_prompt()
        terminal.type("Stop\r")
        terminal.expect("Fine")
        terminal.expect_prompt()
        terminal.type("/exit\r")
        assert terminal.expect_end() == 0
    assert turns(server)[1]["conversation_id"] == [CONVERSATION]


def test_ctrl_c_at_the_prompt_drops_what_was_typed(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        terminal.type("never mind\x03")
        terminal.expect_prompt()
        terminal.type("Hi\r")
        terminal.expect("Hello")
    assert turns(server) == [{"prompt": ["Hi"]}]


@pytest.mark.parametrize("keys", ["first\x1b\rsecond\r", "first\\\rsecond\r", "\x1b[200~first\nsecond\x1b[201~\r"])
def test_a_prompt_may_have_several_lines(command: Command, server: ScriptedServer, keys: str) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        terminal.type(keys)
        terminal.expect("Hello")
    assert turns(server) == [{"prompt": ["first\nsecond"]}]


def test_commands_are_obeyed_and_never_sent(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"), answer(HEADER, b"Anew"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        for keys, said in (
            ("/id\r", "No conversation yet"),
            ("/help\r", "/new"),
            ("/nwe\r", "There is no command /nwe"),
            ("Hi\r", "Hello"),
            ("/id\r", f"{CONVERSATION}\r\n"),
            ("/new\r", f"--conversation {CONVERSATION}"),
            ("/* a C comment is no command */\r", "Anew"),
        ):
            terminal.type(keys)
            terminal.expect(said)
            terminal.expect_prompt()
        terminal.type("/exit\r")
        assert terminal.expect_end() == 0
    assert turns(server) == [{"prompt": ["Hi"]}, {"prompt": ["/* a C comment is no command */"]}]


def test_a_refusal_at_a_terminal_is_shown_and_the_next_prompt_asked_for(
    command: Command, server: ScriptedServer
) -> None:
    refusal = json.dumps({"detail": "There is no such conversation."}).encode()
    server.answer(CHAT, Scripted((refusal,), 404, "application/json"), answer(HEADER, b"Hello"))
    with command.at_terminal("chat", "--server", server.url, "--conversation", "lost") as terminal:
        terminal.expect_prompt()
        terminal.type("Hi\r")
        terminal.expect("There is no such conversation.")
        terminal.expect_prompt()
        terminal.type("/new\r")
        terminal.expect_prompt()
        terminal.type("Hi\r")
        terminal.expect("Hello")
    assert turns(server) == [{"prompt": ["Hi"], "conversation_id": ["lost"]}, {"prompt": ["Hi"]}]


def test_the_history_is_kept_for_the_next_time_and_only_its_owner_can_read_it(
    command: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        terminal.type("Remember me\r")
        terminal.expect("Hello")
    history = tmp_path / "state" / "quern" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    history.chmod(0o644)
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect_prompt()
        terminal.type("\x1b[A\r")
        terminal.expect("Hello")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert turns(server) == [{"prompt": ["Remember me"]}] * 2


def test_a_history_that_cant_be_kept_does_not_stop_the_chat(
    command: Command, server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    server.answer(CHAT, answer(HEADER, b"Hello"))
    with command.at_terminal("chat", "--server", server.url) as terminal:
        terminal.expect("not remembered")
        terminal.expect_prompt()
        terminal.type("Hi\r")
        terminal.expect("Hello")


def test_without_a_server_a_terminal_gets_the_sentence_and_no_prompt(command: Command) -> None:
    with command.at_terminal("chat", "--server", "http://127.0.0.1:9") as terminal:
        terminal.expect("Start it with `quern serve`")
        assert terminal.expect_end() == 1


def test_piped_lines_are_one_turn_each_of_one_conversation(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"), answer(b"Again\n"), answer(HEADER, b"Anew"))
    done = command.run("chat", "--server", server.url, stdin="你好\n\n  Once more \r\n/new\nHi".encode())
    assert done.returncode == 0
    assert done.stdout == b"Hello\nAgain\nAnew\n"
    assert done.stderr.decode().count(f"quern chat --conversation {CONVERSATION}") == 2
    assert turns(server) == [
        {"prompt": ["你好"]},
        {"prompt": ["  Once more "], "conversation_id": [CONVERSATION]},
        {"prompt": ["Hi"]},
    ]


def test_a_conversation_is_continued_by_its_id(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(b"Yes"))
    done = command.run("chat", "--server", server.url, "--conversation", CONVERSATION, stdin=b"Still there?\n")
    assert (done.returncode, done.stdout) == (0, b"Yes\n")
    assert turns(server) == [{"prompt": ["Still there?"], "conversation_id": [CONVERSATION]}]


def test_a_conversation_that_the_server_does_not_know_is_not_offered_again(
    command: Command, server: ScriptedServer
) -> None:
    refusal = json.dumps({"detail": "There is no such conversation."}).encode()
    server.answer(CHAT, Scripted((refusal,), 404, "application/json"))
    done = command.run("chat", "--server", server.url, "--conversation", "lost", stdin=b"Hi\n")
    assert (done.returncode, done.stderr) == (1, b"There is no such conversation.\n")


@pytest.mark.parametrize(("line", "code"), [(b"/nwe", 2), (b"\xff", 2), (b"Fail", 1)])
def test_the_first_failure_ends_piped_input(command: Command, server: ScriptedServer, line: bytes, code: int) -> None:
    server.answer(CHAT, answer(HEADER, b"Hello"), answer(b"Hel", end=End.BROKEN))
    done = command.run("chat", "--server", server.url, stdin=b"Hi\n" + line + b"\nNever sent\n")
    assert done.returncode == code
    assert done.stdout.startswith(b"Hello\n")
    assert f"--conversation {CONVERSATION}" in done.stderr.decode()
    assert ["Never sent"] not in [form["prompt"] for form in turns(server)]


def test_ctrl_c_ends_piped_input_with_130(command: Command, server: ScriptedServer) -> None:
    server.answer(CHAT, answer(HEADER, b"and so", end=End.NEVER))
    with command.started("chat", "--server", server.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Go on\n")
        process.stdin.flush()
        assert process.stdout.read(6) == b"and so"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
        assert process.returncode == 130
        assert server.client_gone.wait(30)
    assert b"Cancelled" in complaint
    assert CONVERSATION.encode() in complaint
