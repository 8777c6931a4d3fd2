"""`quern config`: a file that explains itself, and what is in force."""

from __future__ import annotations

import os
import re
import tomllib
from functools import reduce
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quern.cli.config_file import template, toml
from quern.cli.main import build_app
from quern.config import Settings
from quern.config_sources import load_settings, setting_fields, value_of


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUERN_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(build_app(["config"]), ["config", *arguments])
    return done.exit_code, done.output


def _set_lines(text: str) -> list[str]:
    return re.findall(r"^#(\w+ =.*)$", text, re.MULTILINE)


def test_the_file_that_is_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    assert run("init", str(path))[0] == 0
    assert load_settings(path) == Settings()


def test_every_setting_is_there_with_its_default_and_its_meaning(tmp_path: Path) -> None:
    text = template()
    taken = re.sub(r"^#(\w+ = .+)$", r"\1", text, flags=re.MULTILINE)
    path = tmp_path / "quern.toml"
    path.write_text(taken, encoding="utf-8")
    assert load_settings(path) == Settings()
    given = tomllib.loads(taken)
    for name, field in setting_fields().items():
        *rooms, setting = name.split(".")
        present = setting in reduce(lambda inside, room: inside.get(room, {}), rooms, given)
        assert present is (value_of(Settings(), name) is not None), name
        assert re.search(rf"^#{setting} =", text, re.MULTILINE), name
        words = " ".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE).split())
        assert " ".join((field.description or "").split()) in words, name
    assert len(_set_lines(text)) == len(setting_fields())
    assert max(map(len, text.splitlines())) <= 120


def test_a_setting_that_is_changed_in_the_file_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text(template().replace("#port = 8001", "port = 9000"), encoding="utf-8")
    assert load_settings(path).server.port == 9000


def test_a_file_that_is_there_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text("mine")
    code, said = run("init", str(path))
    assert code == 2
    assert "--force" in said
    assert path.read_text() == "mine"
    assert run("init", "--force", str(path))[0] == 0
    assert path.read_text() == template()
    assert run("init", str(tmp_path / "none" / "x.toml"))[0] == 2


def test_a_dash_writes_to_standard_output() -> None:
    assert run("init", "-") == (0, template())


@pytest.mark.parametrize("text", ["plain", 'quo"ted', "back\\slash", "line\nbreak", "tab\t\x7f\x00é个"])
def test_any_text_comes_back_from_toml(text: str) -> None:
    assert tomllib.loads(f"x = {toml(text)}") == {"x": text}


def test_what_is_in_force_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quern.toml"
    path.write_text("[server]\nport = 9000\nidle_seconds = 5\n[store]\nurl = 'postgresql://quern:hunter2@db/quern'\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "engine.api_key").write_text("sk-hunter2\n")
    (credentials / "server.idle_seconds").write_text("6\n")
    (credentials / "somebody.else").write_bytes(b"\xff")
    (credentials / "tls").write_text("not ours")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setenv("QUERN_SERVER__PORT", "9001")
    code, shown = run("show", "--config", str(path), "--data-dir", str(tmp_path))
    assert code == 0
    assert "hunter2" not in shown
    lines = {line.split(" =")[0]: line for line in shown.splitlines() if "=" in line}
    assert re.fullmatch(r'data_dir = ".+" +# command line', lines["data_dir"])
    assert re.fullmatch(r"port = 9001 +# environment QUERN_SERVER__PORT", lines["port"])
    assert re.fullmatch(r"idle_seconds = 6\.0 +# credential", lines["idle_seconds"])
    assert re.fullmatch(r'api_key = "\(secret\)" +# credential', lines["api_key"])
    assert re.fullmatch(rf'url = "\(secret\)" +# file {path}', lines["url"])
    assert re.fullmatch(r"max_queued = 64 +# default", lines["max_queued"])
    assert re.fullmatch(r"#threads = +# default", lines["#threads"])
    assert tomllib.loads(shown)["server"]["port"] == 9001


def test_a_credential_is_a_setting_without_its_last_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "engine.api_key").write_text("sk with spaces \n")
    key = load_settings().engine.api_key
    assert key is not None
    assert key.get_secret_value() == "sk with spaces "


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("engine.apikey", b"hunter2", "no setting engine.apikey"), ("engine.api_key", b"\xff\xfe", "not UTF-8")],
)
def test_a_credential_that_is_wrong_is_named_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, said: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / name).write_bytes(content)
    code, shown = run("show")
    assert code == 2
    assert said in shown
    assert "hunter2" not in shown


def test_a_folder_of_credentials_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "none"))
    code, shown = run("show")
    assert code == 2
    assert str(tmp_path / "none") in shown
