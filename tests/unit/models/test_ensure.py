"""What a server gets to serve: a checked file or folder, whatever is on the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.models.hub import CLOSED_PORT, ENTRY, HubServer, Recorder, gguf_bytes, hubs_at, sha256, wheel_entry

from quern.errors import ModelCorrupt, ModelDownloadError, ModelNotFound
from quern.modelfiles.sizes import size_on_disk
from quern.models import catalog
from quern.models.locate import OnDisk, entry_path, model_id, on_disk, resolve
from quern.models.pull import ensure, pull


@pytest.fixture
def installed(hub: HubServer, tmp_path: Path) -> Path:
    """A file that was pulled."""
    return pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def test_a_missing_model_is_fetched(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    path = ensure(ENTRY.name, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body


def test_a_whole_model_is_served_without_asking_anybody(
    hub: HubServer, installed: Path, tmp_path: Path, progress: Recorder
) -> None:
    assert ensure(ENTRY.name, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT)) == installed
    assert progress.notices == []
    assert {phase for phase, _, _ in progress.advances} == {f"Checking {ENTRY.name}"}


@pytest.mark.parametrize("damage", [flip_a_bit, truncate], ids=["bit_flipped", "truncated"])
def test_a_damaged_file_is_named_and_fetched_again(
    hub: HubServer, installed: Path, tmp_path: Path, progress: Recorder, damage: object
) -> None:
    assert callable(damage)
    damage(installed)
    path = ensure(ENTRY.name, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert f"{installed} is damaged" in progress.text


@pytest.mark.parametrize("damage", [flip_a_bit, truncate], ids=["bit_flipped", "truncated"])
def test_a_damaged_file_that_can_not_be_fetched_again_is_an_error(
    installed: Path, tmp_path: Path, progress: Recorder, damage: object
) -> None:
    assert callable(damage)
    damage(installed)
    for _ in range(2):
        with pytest.raises(ModelDownloadError):
            ensure(ENTRY.name, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT))
    assert f"{installed} is damaged" in progress.text
    assert not installed.exists()
    assert not installed.with_name(installed.name + ".json").exists()


def test_without_verification_the_size_is_still_checked(
    hub: HubServer, installed: Path, tmp_path: Path, progress: Recorder
) -> None:
    flip_a_bit(installed)
    assert ensure(ENTRY.name, tmp_path, verify=False, progress=progress, hubs=hubs_at(hub.url)) == installed
    assert len(hub.downloads) == 1
    truncate(installed)
    assert ensure(ENTRY.name, tmp_path, verify=False, progress=progress, hubs=hubs_at(hub.url)) == installed
    assert installed.read_bytes() == hub.body


def test_a_file_without_a_known_checksum_is_served_and_said_to_be_unchecked(tmp_path: Path, progress: Recorder) -> None:
    path = entry_path(ENTRY, tmp_path)
    path.parent.mkdir()
    path.write_bytes(gguf_bytes())
    assert ensure(ENTRY.name, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT)) == path
    assert f"{path} was not fetched by Quern" in progress.text


def test_a_file_put_there_by_hand_is_checked_against_the_catalog(
    tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = gguf_bytes()
    entry = wheel_entry(body, 1)
    monkeypatch.setattr(catalog, "CATALOG", (entry,))
    path = entry_path(entry, tmp_path)
    path.parent.mkdir()
    path.write_bytes(body)
    assert ensure(entry.name, tmp_path, progress=progress) == path
    assert progress.notices == []


def test_another_file_put_there_by_hand_is_neither_served_nor_removed(
    tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = wheel_entry(gguf_bytes(seed=1), 1)
    monkeypatch.setattr(catalog, "CATALOG", (entry,))
    path = entry_path(entry, tmp_path)
    path.parent.mkdir()
    path.write_bytes(gguf_bytes(seed=2))
    with pytest.raises(ModelCorrupt, match=rf"{path}.*left alone"):
        ensure(entry.name, tmp_path, progress=progress)
    assert sha256(path.read_bytes()) == sha256(gguf_bytes(seed=2))


def test_a_path_is_served_as_it_is(tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(gguf_bytes())
    monkeypatch.chdir(tmp_path)
    assert ensure("mine.gguf", tmp_path, progress=progress) == mine
    assert ensure(str(mine), tmp_path, progress=progress) == mine
    assert progress.advances == []


def test_a_catalog_name_is_not_mistaken_for_a_directory_of_that_name(
    hub: HubServer, tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ENTRY.name).mkdir()
    assert ensure(ENTRY.name, tmp_path / "models", progress=progress, hubs=hubs_at(hub.url)).is_file()


def test_an_unknown_name_lists_what_was_perhaps_meant(tmp_path: Path, progress: Recorder) -> None:
    with pytest.raises(ModelNotFound, match=r"Did you mean .*qwen2\.5-coder-1\.5b"):
        ensure("qwen2.5-coder:1.5b", tmp_path, progress=progress)
    with pytest.raises(ModelNotFound, match=r"There are qwen2\.5-coder-0\.5b, .*qwen3-coder-30b-a3b"):
        ensure("llama", tmp_path, progress=progress)


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "~nobody-of-that-name/model.gguf", "x" * 5000 + ".gguf"])
def test_what_can_be_no_model_at_all_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        resolve(name, tmp_path)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=rf"There is no model file {tmp_path}/none\.gguf"):
        resolve(str(tmp_path / "none.gguf"), tmp_path)


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_folder_in_hugging_faces_layout_is_served_as_it_is(
    tmp_path: Path, progress: Recorder, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    folder = tmp_path / "Qwen2.5-Coder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / weights).write_bytes(bytes(1000))
    monkeypatch.chdir(tmp_path)
    assert ensure("Qwen2.5-Coder", tmp_path, progress=progress) == folder
    assert ensure(str(folder), tmp_path, progress=progress) == folder
    assert progress.advances == []
    assert size_on_disk(folder) == 1000


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("config.json", r"weights \(model\*\.safetensors\)"),
        ("model.safetensors", r"config\.json"),
        ("model-00001-of-00002.safetensors", r"config\.json"),
    ],
)
def test_half_a_folder_is_refused_and_what_is_missing_is_named(tmp_path: Path, there: str, missing: str) -> None:
    (tmp_path / there).write_text("{}")
    with pytest.raises(ModelNotFound, match=rf"{tmp_path} .* there is no {missing} in it"):
        resolve(str(tmp_path), tmp_path)


def test_a_directory_without_any_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is none in it"):
        resolve(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b"),
        ("/models/mine.gguf", "mine"),
        ("/models/Qwen2.5-Coder-7B-Instruct/", "Qwen2.5-Coder-7B-Instruct"),
    ],
)
def test_clients_see_a_name_without_the_path(name: str, shown: str) -> None:
    assert model_id(name) == shown


def test_a_directory_with_gguf_files_lists_them(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_bytes())
    with pytest.raises(ModelNotFound, match=r"one of the files in it: a\.gguf"):
        resolve(str(tmp_path), tmp_path)


def test_something_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(ModelNotFound, match="not a regular file"):
        resolve(str(pipe), tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGU", b"version https://git-lfs.github.com/spec/v1"])
def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=rf"{path} is not a GGUF file"):
        resolve(str(path), tmp_path)


def test_a_name_resolves_to_its_file_once_that_is_there(hub: HubServer, tmp_path: Path) -> None:
    assert resolve(ENTRY.name, tmp_path) is None
    pulled = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
    assert resolve(ENTRY.name, tmp_path) == pulled


def test_what_is_on_disk_is_told_by_its_size(hub: HubServer, tmp_path: Path) -> None:
    assert on_disk(ENTRY, tmp_path) is OnDisk.NO
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=1), hubs=hubs_at(hub.url))
    assert on_disk(ENTRY, tmp_path) is OnDisk.PARTLY
    path = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
    assert on_disk(ENTRY, tmp_path) is OnDisk.YES
    truncate(path)
    assert on_disk(ENTRY, tmp_path) is OnDisk.PARTLY


def test_an_unreadable_manifest_counts_as_none(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    path = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
    path.with_name(path.name + ".json").write_text("{")
    assert ensure(replace(ENTRY).name, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT)) == path
    assert "has no known checksum" in progress.text
