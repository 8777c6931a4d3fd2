"""The units: what systemd itself says of them, and what is refused since it could not run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.command import QUERN, Command
from typer.testing import CliRunner

from quern.cli import service as commands
from quern.cli import service_units
from quern.cli.main import build_app
from quern.cli.service_units import Unit

NAME = "qwen_coder_api"
EXPOSED_AT_MOST = 2.5
ADDRESS = "127.0.0.1:8001"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian's package systemd has it)"
)
UNITS = {
    "a user of systemd's own": Unit(NAME, (QUERN,), ADDRESS, 30),
    "a named user": Unit(NAME, (QUERN,), ADDRESS, 30, user="daemon", data_dir=Path("/srv/quern data")),
    "somebody's home": Unit(NAME, (QUERN,), ADDRESS, 30, code=(Path("/home/ann/quern"),)),
    "everything given": Unit(
        "other-name",
        (QUERN,),
        "[::]:9000",
        0.5,
        config=Path("/etc/quern % $HOME.toml"),
        credentials={"engine.api_key": Path("/etc/quern/key"), "store.url": Path("/etc/quern/url")},
        memory_max="12G",
    ),
    "of a user": Unit(NAME, (QUERN,), ADDRESS, 30, for_user=True),
    "of a user, elsewhere": Unit(NAME, (QUERN,), ADDRESS, 30, for_user=True, data_dir=Path("/srv/q")),
}
SYSTEM_UNITS = {name: unit for name, unit in UNITS.items() if not unit.for_user}


def written(unit: Unit, folder: Path) -> list[str]:
    files = {f"{unit.name}.socket": service_units.socket(unit), f"{unit.name}.service": service_units.service(unit)}
    for name, content in files.items():
        (folder / name).write_text(content)
    return [str(folder / name) for name in files]


@needs_systemd
@pytest.mark.parametrize("case", UNITS)
def test_systemd_finds_nothing_wrong_in_the_units(tmp_path: Path, case: str) -> None:
    unit = UNITS[case]
    scope = ["--user"] if unit.for_user else []
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", *written(unit, tmp_path)],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("case", SYSTEM_UNITS)
def test_the_service_can_do_little_harm(tmp_path: Path, case: str) -> None:
    *_, unit = written(SYSTEM_UNITS[case], tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) < EXPOSED_AT_MOST, done.stdout


@pytest.mark.parametrize("case", UNITS)
def test_the_units_say_what_the_server_needs(case: str) -> None:
    unit = UNITS[case]
    text = service_units.service(unit)
    lines = text.splitlines()
    for line in ("Type=notify", "NotifyAccess=main", "Restart=on-failure", "ExecReload=/bin/kill -HUP $MAINPID"):
        assert line in lines
    assert f"Requires={unit.name}.socket" in lines
    assert f"ListenStream={unit.address}" in service_units.socket(unit).splitlines()
    assert any(line.startswith("WatchdogSec=") for line in lines)
    stop = next(int(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec="))
    assert stop >= unit.grace_seconds + 30
    assert ("DynamicUser=yes" in lines) is (unit.user is None and not unit.for_user)
    for name, path in unit.credentials.items():
        assert f"LoadCredential={name}:{path}" in lines


def test_nothing_in_a_command_line_is_one_of_systemds_own_signs() -> None:
    text = service_units.service(UNITS["everything given"])
    assert '--config "/etc/quern %% $$HOME.toml"' in text
    assert '--data-dir "/srv/quern data"' in service_units.service(UNITS["a named user"])
    assert "--data-dir %S/other-name" in text


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(build_app(["service"]), ["service", *arguments])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither this machine's units nor this shell's settings; and Quern is where everybody may read it."""
    for name in [name for name in os.environ if name.startswith("QUERN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(commands, "SYSTEM_UNITS", tmp_path / "system")
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, "/usr")
    monkeypatch.setattr("quern.__path__", ["/usr"])
    return tmp_path


def test_showing_needs_nothing_and_writes_nothing(own_places: Path) -> None:
    code, text = run("show")
    assert code == 0
    assert f"# {own_places}/system/{NAME}.service" in text
    assert "Type=notify" in text
    assert [path for path in own_places.rglob("*") if path.is_file()] == []


def test_installing_for_oneself_writes_two_units_and_says_how_to_start_them(own_places: Path) -> None:
    code, text = run("install", "--user", "--name", "mine")
    assert code == 0
    folder = own_places / "config" / "systemd" / "user"
    assert sorted(path.name for path in folder.iterdir()) == ["mine.service", "mine.socket"]
    assert "systemctl --user daemon-reload" in text
    assert "systemctl --user enable --now mine.socket mine.service" in text
    assert run("install", "--user", "--name", "mine")[0] == 0, "its own units it may renew"


def test_now_has_systemd_start_it(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = own_places / "programs"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {own_places}/asked\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert run("install", "--now")[0] == 0
    asked = (own_places / "asked").read_text().splitlines()
    assert asked == ["daemon-reload", f"enable --now {NAME}.socket {NAME}.service"]
    systemctl.write_text("#!/bin/sh\nexit 1\n")
    code, text = run("install", "--now")
    assert (code, "failed" in text) == (2, True)


def test_a_unit_of_somebody_elses_is_kept_without_force(own_places: Path) -> None:
    theirs = own_places / "system" / f"{NAME}.service"
    theirs.parent.mkdir()
    theirs.write_text("[Unit]\nDescription=theirs\n")
    code, text = run("install")
    assert (code, "--force" in text) == (2, True)
    assert "theirs" in theirs.read_text()
    assert run("install", "--force")[0] == 0


def config(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "quern.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_address_is_that_of_the_settings(own_places: Path) -> None:
    path = config(own_places, "[server]\nhost = '::1'\nport = 9000\nshutdown_grace_seconds = 300\n")
    code, text = run("show", "--user", "--config", str(path))
    assert code == 0
    assert "ListenStream=[::1]:9000 " in text
    assert "TimeoutStopSec=360" in text
    assert f"--config {path}" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "no/name"], "can't be a unit's name"),
        (["--name", ""], "can't be a unit's name"),
        (["--data-dir", "/srv/quern"], "--run-as"),
        (["--run-as", "nobody-of-that-name"], "no user"),
        (["--user", "--run-as", "root"], "leave --run-as away"),
        (["--credential", "engine.api_key"], "engine.api_key=/etc"),
        (["--credential", "engine.apikey=/etc/key"], "engine.api_key=/etc"),
        (["--credential", "data_dir=/etc/key"], "engine.api_key=/etc"),
        (["--config", "/none.toml"], "can't be read"),
    ],
)
@pytest.mark.parametrize("command", ["show", "install"])
def test_what_could_not_run_is_refused_with_a_sentence(
    own_places: Path, command: str, arguments: list[str], said: str
) -> None:
    code, text = run(command, *arguments)
    assert code == 2
    assert said in text
    assert not (own_places / "system").exists()


@pytest.mark.parametrize(("setting", "said"), [("port = 0", "other than 0"), ("host = 'localhost.'", "addresses")])
def test_an_address_that_systemd_can_not_open_is_refused(own_places: Path, setting: str, said: str) -> None:
    path = config(own_places, f"[server]\nallow_anonymous = true\n{setting}\n")
    code, text = run("install", "--user", "--config", str(path))
    assert (code, said in text) == (2, True)


def test_what_the_service_could_not_see_keeps_it_from_being_installed(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(own_places, "", 0o600)  # tests run in a temporary folder
    code, text = run("install", "--config", str(path))
    assert code == 2
    assert "no access to homes and temporary files" in text
    assert "closed to others" in text
    assert "Nothing was written" in text
    assert run("show", "--config", str(path))[0] == 0
    monkeypatch.setenv("QUERN_SERVER__PORT", "9000")
    code, text = run("install")
    assert (code, "server.port" in text) == (2, True)


def test_the_installed_command_shows_units_without_root(command: Command) -> None:
    done = command.run("service", "show", "--user")
    assert done.returncode == 0, done.stderr
    assert f"ExecStart={QUERN} serve --data-dir %S/{NAME}".encode() in done.stdout
