"""A disk that is full for real: a file system of some MiB, in a mount namespace of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = Path(__file__).with_name("full_disk_process.py")
MOUNT = 'mount -t tmpfs -o size="$1" quern "$2" && shift && exec "${@:2}"'


def on_a_disk_of(size: str, scenario: str, folder: Path, journal_mode: str = "TRUNCATE") -> dict[str, Any]:
    """What happened there. Skips where users may have no namespaces of their own."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no user namespaces, in which a small file system could be mounted")
    command = [*namespace, "bash", "-c", MOUNT, "-", size, str(folder), sys.executable, str(SCENARIOS), scenario]
    done = subprocess.run(
        [*command, str(folder), journal_mode], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_a_disk_of("32m", "full_disk", tmp_path_factory.mktemp("disk"))


def test_a_turn_that_would_begin_on_a_full_disk_is_a_507_in_every_dialect(seen: dict[str, Any]) -> None:
    for path, refused in (*seen["refused"].items(), ("afterwards", seen["refused_after"])):
        assert (path, refused["status"], refused["retry"]) == (path, 507, "false")
        assert "is full" in json.dumps(refused["body"])
        assert "delete conversations" in json.dumps(refused["body"])
    codes = seen["refused"]["/v1/chat/completions"]["body"]["error"]
    assert (codes["type"], codes["code"]) == ("server_error", "insufficient_storage")
    assert seen["refused"]["/v1/messages"]["body"]["error"]["type"] == "api_error"


def test_a_turn_that_runs_when_the_disk_gets_full_ends_as_ever(seen: dict[str, Any]) -> None:
    assert seen["stream"] == "data: [DONE]"
    (turn,) = seen["turns"]
    assert (turn["state"], turn["text"]) == ("completed", "a whole answer. " * 20)


def test_what_is_deleted_on_a_full_disk_makes_room_for_what_comes(seen: dict[str, Any]) -> None:
    assert seen["reserve"] == 4 * 2**20
    assert (seen["deleted"]["status"], seen["deleted"]["body"]["deleted"]) == (200, True)
    assert seen["shrank"], "the file gave the disk nothing back"
    assert seen["reserve_again"], "nothing is kept for the next time"
    assert seen["begun"] == 200


def test_a_response_an_item_and_all_there_is_are_deleted_on_a_full_disk_too(seen: dict[str, Any]) -> None:
    assert (seen["response_deleted"]["status"], seen["item_deleted"]) == (200, 200)
    assert seen["reserve_of_what_there_is"], "nothing is kept for the next time"
    assert seen["all_deleted"]["body"] == {"object": "list.deleted", "deleted": 2, "responses": 1}
    assert seen["shrank_to_little"]
    assert seen["reserve_at_last"], "what was given back is the reserve's first"
    assert (seen["begun_at_last"], seen["integrity"]) == (200, "ok")


def test_what_is_too_much_for_the_reserve_is_deleted_in_parts_or_a_sentence_says_so(tmp_path: Path) -> None:
    seen = on_a_disk_of("24m", "small_reserve", tmp_path)
    assert seen["too_big"]["status"] == 507
    assert "not all was deleted" in seen["too_big"]["body"]["error"]["message"]
    assert seen["kept"] == 1
    assert (seen["deleted"]["status"], seen["gone"]) == (200, 404)
    assert seen["shrank"]
    assert seen["too_big_no_more"] == 200
    assert seen["integrity"] == "ok"


@pytest.mark.parametrize("journal_mode", ["TRUNCATE", "WAL"])
def test_deleting_on_a_full_disk_works_whatever_the_journal_is(tmp_path: Path, journal_mode: str) -> None:
    seen = on_a_disk_of("24m", "deletion", tmp_path, journal_mode)
    assert (seen["deleted"]["status"], seen["response_deleted"]["status"]) == (200, 200)
    assert (seen["shrank"], seen["reserve"], seen["begun"]) == (True, True, 200)
    assert seen["integrity"] == "ok"
