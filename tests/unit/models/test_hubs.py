"""Pulling from hubs over real sockets."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.models.hub import (
    CLOSED_PORT,
    ENTRY,
    HUGGING_FACE,
    MODELSCOPE,
    HubServer,
    Recorder,
    gguf_bytes,
    hubs_at,
    sha256,
)

from quern.errors import ConfigError, ModelDownloadError
from quern.models.catalog import HubSource, SourceKind
from quern.models.hubs import Hubs, within
from quern.models.locate import entry_path
from quern.models.pull import pull


def files_in(models_dir: Path) -> set[str]:
    """The endings of everything beside the entry's file."""
    target = entry_path(ENTRY, models_dir)
    return {path.name.removeprefix(target.name) for path in target.parent.iterdir()}


def test_a_pulled_file_is_whole_and_has_a_manifest(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path == tmp_path / ENTRY.name / ENTRY.file_name
    assert path.read_bytes() == hub.body
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    assert manifest["sha256"] == sha256(hub.body)
    assert manifest["size"] == len(hub.body)
    assert manifest["source"] == "hf"
    assert files_in(tmp_path) == {"", ".json", ".lock"}


def test_the_progress_ends_with_every_byte_downloaded_and_checked(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    size = len(hub.body)
    assert (f"Downloading {ENTRY.name}", size, size) in progress.advances
    assert progress.advances[-1] == (f"Checking {ENTRY.name}", size, size)


def test_a_second_pull_checks_the_file_and_downloads_nothing(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT)) == path
    assert len(hub.downloads) == 1


def test_a_broken_connection_is_continued_where_it_broke(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    hub.cuts = [100_000, 50_000]
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert hub.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(min_value=1, max_value=4000), max_size=8), ranges=st.booleans())
def test_however_often_the_connection_breaks_the_file_is_whole(cuts: list[int], *, ranges: bool) -> None:
    with HubServer(gguf_bytes(12_000)).running() as hub, TemporaryDirectory() as folder:
        hub.ranges = ranges
        hub.cuts = cuts if ranges else cuts[:2]
        try:
            path = pull(ENTRY, Path(folder), progress=Recorder(), hubs=hubs_at(hub.url))
        except ModelDownloadError:
            # Without ranges a shorter second attempt brings nothing new until the attempts are used up.
            assert not ranges
            assert not entry_path(ENTRY, Path(folder)).exists()
        else:
            assert path.read_bytes() == hub.body


def test_a_source_that_brings_nothing_more_is_given_up(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.cuts = [1000] + [0] * 50
    pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert 2 < len(hub.downloads) < 10
    assert "Hugging Face is skipped: the download stopped at 1000 of 300000 bytes" in progress.text


def test_the_same_file_is_continued_from_another_hub(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.cuts = [120_000] + [0] * 50
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == hub.body
    assert second_hub.ranges_asked == ["bytes=120000-"]
    assert json.loads(path.with_name(path.name + ".json").read_text())["source"] == "modelscope"


def test_ctrl_c_leaves_a_part_that_the_next_pull_continues(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=100_000), hubs=hubs_at(hub.url))
    assert files_in(tmp_path) == {".part", ".part.json", ".lock"}
    held = entry_path(ENTRY, tmp_path).with_name(ENTRY.file_name + ".part").stat().st_size
    assert held >= 100_000
    path = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert hub.ranges_asked == [None, f"bytes={held}-"]


def test_a_part_of_a_file_that_has_changed_since_is_not_continued(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=100_000), hubs=hubs_at(hub.url))
    hub.body = gguf_bytes(seed=2)
    path = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert hub.ranges_asked == [None, None]


def test_a_damaged_part_is_noticed_and_fetched_from_the_start(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=100_000), hubs=hubs_at(hub.url))
    part = entry_path(ENTRY, tmp_path).with_name(ENTRY.file_name + ".part")
    with part.open("r+b") as file:
        file.seek(500)
        file.write(b"damage")
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert hub.ranges_asked[-1] is None
    assert f"{part} had the SHA-256" in progress.text


def test_a_server_that_knows_no_ranges_is_read_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=100_000), hubs=hubs_at(hub.url))
    hub.ranges = False
    hub.cuts = [50_000]
    assert pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url)).read_bytes() == hub.body


def test_a_file_with_the_wrong_checksum_is_removed_and_the_next_source_used(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.stated_sha256 = "ab" * 32
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert len(hub.downloads) == 1
    assert f"{path}.part had the SHA-256 {sha256(hub.body)} instead of {'ab' * 32} and was removed" in progress.text


def test_a_file_with_the_wrong_checksum_never_gets_the_final_name(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.stated_sha256 = "ab" * 32
    with pytest.raises(ModelDownloadError, match="was removed"):
        pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert files_in(tmp_path) == {".lock"}


def test_the_final_name_does_not_exist_before_the_check(hub: HubServer, tmp_path: Path) -> None:
    target = entry_path(ENTRY, tmp_path)
    seen: set[str] = set()

    class Watcher(Recorder):
        def advance(self, phase: str, done: int, total: int | None) -> None:
            seen.add(phase.split(maxsplit=1)[0])
            assert not target.exists()

    pull(ENTRY, tmp_path, progress=Watcher(), hubs=hubs_at(hub.url))
    assert seen == {"Asking", "Downloading", "Checking"}
    assert target.exists()


def test_a_hub_that_sends_another_file_than_it_states_is_skipped(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.stated_size, hub.stated_sha256 = 200_000, sha256(second_hub.body)
    hub.chunked = True
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert "sends more than the 200000 bytes" in progress.text


def test_a_file_that_changes_its_size_while_it_is_fetched_is_not_mixed(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.stated_size, hub.stated_sha256 = 400_000, "ab" * 32
    hub.cuts = [100_000]
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert "has changed there" in progress.text


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_hub_that_refuses_the_download_is_skipped(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder, status: int
) -> None:
    hub.status = status
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert f"it answered {status}" in progress.text
    assert len(hub.downloads) == 1


def test_an_unreachable_hub_is_named_and_skipped_quickly(
    second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    started = time.monotonic()
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT, second_hub.url))
    assert time.monotonic() - started < 10
    assert path.read_bytes() == second_hub.body
    assert "Hugging Face is skipped: it can't be reached" in progress.text


def test_a_hub_that_takes_connections_but_never_answers_is_skipped(
    second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hubs = replace(hubs_at(f"http://127.0.0.1:{silent.getsockname()[1]}", second_hub.url), connect_seconds=0.3)
        path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs)
    assert path.read_bytes() == second_hub.body
    assert "Hugging Face is skipped: it can't be reached" in progress.text


def test_asking_a_hub_has_a_limit_in_all() -> None:
    released = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.1, lambda: released.wait(60))
    assert time.monotonic() - started < 30
    released.set()


def test_when_every_source_fails_each_is_named_with_its_reason(tmp_path: Path, progress: Recorder) -> None:
    with pytest.raises(ModelDownloadError) as caught:
        pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT))
    message = str(caught.value)
    assert "Hugging Face: it can't be reached" in message
    assert "ModelScope: it can't be reached" in message
    assert f"quern pull {ENTRY.name}" in message


def test_a_hub_that_states_no_checksum_is_not_trusted(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    hub.stated_sha256 = "0123456789abcdef"
    with pytest.raises(ModelDownloadError, match="states no SHA-256"):
        pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert not hub.downloads


def test_a_pinned_source_must_have_the_pinned_file(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    source = ENTRY.sources[0]
    assert isinstance(source, HubSource)
    pinned = replace(ENTRY, sources=(replace(source, sha256="cd" * 32),))
    with pytest.raises(ModelDownloadError, match="is not the file that is expected"):
        pull(pinned, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert not hub.downloads


def test_a_repository_without_the_file_is_named(second_hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    source = ENTRY.sources[1]
    assert isinstance(source, HubSource)
    other = replace(ENTRY, sources=(replace(source, file="other.gguf"),))
    with pytest.raises(ModelDownloadError, match=r"it has no file other\.gguf in Qwen/"):
        pull(other, tmp_path, progress=progress, hubs=hubs_at(CLOSED_PORT, second_hub.url))


def test_a_file_that_does_not_fit_the_disk_is_refused_before_the_download(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.stated_size = 10**15
    with pytest.raises(ModelDownloadError, match=r"needs 1000000\.0 GB more in .*Free some space"):
        pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert not hub.downloads


def test_a_part_that_is_here_already_needs_no_space(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, tmp_path, progress=Recorder(interrupt_at=100_000), hubs=hubs_at(hub.url))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=usage._replace(free=200_000)))
    assert pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url)).exists()


def test_a_place_that_can_not_be_written_is_named(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    in_the_way = tmp_path / "models"
    in_the_way.write_text("a file where a directory should be")
    with pytest.raises(ModelDownloadError, match=rf"{in_the_way}.*--data-dir"):
        pull(ENTRY, in_the_way, progress=progress, hubs=hubs_at(hub.url))


def test_only_the_chosen_sources_are_asked(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hubs = hubs_at(hub.url, second_hub.url)
    pull(ENTRY, tmp_path, progress=progress, sources=[MODELSCOPE], hubs=hubs)
    assert not hub.downloads
    assert len(second_hub.downloads) == 1


def test_a_source_that_the_model_does_not_have_is_refused(tmp_path: Path, progress: Recorder) -> None:
    with pytest.raises(ConfigError, match="Its sources are: hf, modelscope"):
        pull(ENTRY, tmp_path, progress=progress, sources=[SourceKind.PYPI])


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.redirect = second_hub.url.replace("127.0.0.1", "localhost")
    hubs = hubs_at(hub.url, token="hf_secret")
    path = pull(ENTRY, tmp_path, progress=progress, sources=[HUGGING_FACE], hubs=hubs)
    assert path.read_bytes() == hub.body
    assert [question.authorization for question in hub.questions] == ["Bearer hf_secret"]
    assert second_hub.questions == []
    assert [download.authorization for download in hub.downloads] == ["Bearer hf_secret"]
    assert [download.authorization for download in second_hub.downloads] == [None]
    assert "hf_secret" not in repr(hubs)


def test_a_file_that_has_moved_within_the_hub_is_found(hub: HubServer, tmp_path: Path, progress: Recorder) -> None:
    hub.moved = 2
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, token="hf_secret"))
    assert path.read_bytes() == hub.body
    source = ENTRY.sources[0]
    assert isinstance(source, HubSource)
    address = f"/{source.repo}/resolve/main/{source.file}"
    asked = [(f"{'/moved' * times}{address}", "Bearer hf_secret", "identity") for times in range(3)]
    assert [(question.path, question.authorization, question.accept_encoding) for question in hub.questions] == asked


def test_a_hub_that_sends_everybody_round_in_circles_is_skipped(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.moved = 10**6
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert len(hub.questions) < 10
    assert "Hugging Face is skipped" in progress.text


def test_size_and_checksum_are_also_taken_from_the_ordinary_headers(
    hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.plain = True
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body


def test_the_length_of_a_redirect_is_not_taken_for_the_files(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.plain = True
    hub.redirect = "http://cdn.example"
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url, second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert "it states no size" in progress.text


def test_a_file_that_the_hub_does_not_show_is_told_by_its_status(
    second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    path = pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(f"{second_hub.url}/none", second_hub.url))
    assert path.read_bytes() == second_hub.body
    assert "it answered 404 for" in progress.text


def test_messages_hold_no_signed_addresses(
    hub: HubServer, second_hub: HubServer, tmp_path: Path, progress: Recorder
) -> None:
    hub.redirect = second_hub.url.replace("127.0.0.1", "localhost")
    second_hub.redirect = second_hub.url
    with pytest.raises(ModelDownloadError) as caught:
        pull(ENTRY, tmp_path, progress=progress, hubs=hubs_at(hub.url))
    assert "signature" not in str(caught.value) + progress.text


def test_the_environment_names_a_mirror_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hubs = Hubs.from_environment()
    assert (hubs.hugging_face, hubs.hugging_face_token) == ("http://mirror.example", "hf_secret")
