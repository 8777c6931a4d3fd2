"""The commands of docs/operations.md do what it says: each is run as it is written, with /etc and the like in a folder
of the test's, and without sudo.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import requests

from .conftest import QUERN, ServerProcess

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def commands(heading: str) -> list[list[str]]:
    """The words of each `quern` command in the blocks of a section, its subsections with it."""
    level = heading.partition(" ")[0]
    section = re.split(rf"^#{{1,{len(level)}}} ", PAGE.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[
        0
    ]
    lines = [line for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] if line[0] == "sudo" else line for line in words]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The folders that the page names, and an environment that has everything below one folder."""
    for name in ("etc/quern", "srv/backups", "data"):
        (tmp_path / name).mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUERN_", "XDG_"))}
    return {**kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), "QUERN_DATA_DIR": str(tmp_path / "data")}


def run(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    moved = [re.sub(r"(^|=)/(etc|srv)/", rf"\g<1>{folder}/\g<2>/", word) for word in words]
    moved = [word.replace("/var/lib/qwen_coder_api", str(folder / "data")) for word in moved]
    done = subprocess.run(
        [QUERN, *moved[1:]], capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=environment
    )
    assert done.returncode == 0, f"{shlex.join(moved)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_way_from_an_empty_server_to_a_team_is_as_the_page_says(tmp_path: Path, places: dict[str, str]) -> None:
    found = commands("## From an empty server to a team")
    assert {words[0] for words in found} == {"quern"}
    [serving] = [number for number, words in enumerate(found) if words[1] == "serve"]
    for words in found[:serving]:
        run(words, tmp_path, places)
    options = [word.replace("quern.toml", str(tmp_path / "quern.toml")) for word in found[serving][2:]]
    server = ServerProcess(tmp_path / "data", *options, "--engine", "fake").wait_until_ready()
    try:
        assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 401
        key = run(["quern", "keys", "rotate", "anna"], tmp_path, places).strip()
        body = {"messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {key}"}
        asked = requests.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=10)
        assert asked.status_code == 200
        outputs = {words[1]: run(words, tmp_path, places) for words in found[serving + 1 :]}
    finally:
        server.stop()
    assert all(name in outputs["keys"] for name in ("anna", "ci", "prometheus"))
    assert "anna" in outputs["usage"]
    assert (tmp_path / "monday.db").exists()


def test_the_commands_of_keys_do_what_the_page_says(tmp_path: Path, places: dict[str, str]) -> None:
    found = [words[1:] for words in commands("## Keys") if words[0] == "$"]
    assert [words[1] for words in found] == ["keys", "keys", "keys", "serve"]
    shown = [run(words, tmp_path, places) for words in found[:-1]]
    assert shown[0].startswith("quern_")
    assert "anna" in shown[2]
    server = ServerProcess(tmp_path / "data", *found[-1][2:], "--engine", "fake").wait_until_ready()
    assert server.stop() == 0


def test_the_commands_of_backups_do_what_the_page_says(tmp_path: Path, places: dict[str, str]) -> None:
    found = commands("## Backups")
    assert [words[1] for words in found] == ["backup", "backup", "stop", "restore"]
    server = ServerProcess(tmp_path / "data", "--engine", "fake").wait_until_ready()
    try:
        for words in found:
            run(words, tmp_path, places)
        assert server.process.wait(30) == 0
    finally:
        server.stop()
    assert (tmp_path / "monday.db").exists()
    assert (tmp_path / "srv" / "backups" / "quern.db").exists()


def test_the_commands_of_the_service_do_what_the_page_says(tmp_path: Path, places: dict[str, str]) -> None:
    found = commands("## Run as a service")
    ours = [words for words in found if words[0] == "quern"]
    others = [words for words in found if words[0] != "quern"]
    assert {words[0] for words in others} == {"systemctl"}  # run under a real systemd in test_systemd.py
    data = ServerProcess(tmp_path / "data", "--engine", "fake").wait_until_ready()
    assert data.stop() == 0
    del places["QUERN_DATA_DIR"]
    for words in ours:
        # For the machine's own systemd only root may write; the test writes for a user.
        for_user = ["--user"] if words[1] == "service" and "--user" not in words else []
        run([*words, *for_user], tmp_path, places)
        if words[1:3] == ["config", "init"]:
            (tmp_path / "etc" / "quern.toml").write_bytes((tmp_path / "quern.toml").read_bytes())
    units = tmp_path / "config" / "systemd" / "user"
    assert sorted(path.name for path in units.iterdir()) == ["qwen_coder_api.service", "qwen_coder_api.socket"]
    assert (tmp_path / "srv" / "backups" / "quern.db").exists()
    text = (units / "qwen_coder_api.service").read_text()
    assert f"LoadCredential=store.url:{tmp_path}/etc/quern/store.url" in text
