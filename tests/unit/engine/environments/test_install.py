"""Environments, made by the real pip from tiny wheels."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.engine.environments.tiny_wheels import Recorder, build_wheel

from quern.engine.environments.catalog import EnvironmentEntry
from quern.engine.environments.install import install, remove
from quern.engine.environments.place import Installed, environment_python, folders, look, users
from quern.errors import ConfigError, EnvironmentNotMade

ENTRY = EnvironmentEntry(
    name="tiny", title="A tiny engine", distribution="tiny-engine", requirements=("tiny-engine==1.0",), disk=10**6
)
NEXT = replace(ENTRY, requirements=("tiny-engine==2.0",))


def version_in(engines: Path) -> str:
    """What the environment's own interpreter imports."""
    python = environment_python(engines, ENTRY.name)
    assert python is not None
    command = [str(python), "-c", "import tiny_engine; print(tiny_engine.VERSION)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def something_running(engines: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process in the environment."""
    command = [str(environment_python(engines, ENTRY.name)), "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.usefixtures("wheelhouse")
def test_an_environment_runs_what_was_installed_and_says_what_it_is(tmp_path: Path, progress: Recorder) -> None:
    engines = tmp_path / "engines"
    found = install(ENTRY, engines, progress=progress)
    assert version_in(engines) == "1.0"
    assert (found.state, found.version, found.path) == (Installed.YES, "1.0", engines / "tiny")
    assert found.disk > 0
    assert not list((engines / "tiny").glob("tmp*"))
    assert "Unpacking 1 package" in progress.phases
    assert "A tiny engine: about 0.0 GB in" in progress.text


@pytest.mark.usefixtures("wheelhouse")
def test_what_is_there_is_not_made_again(tmp_path: Path, progress: Recorder) -> None:
    install(ENTRY, tmp_path, progress=progress)
    (before,) = folders(ENTRY, tmp_path)
    install(ENTRY, tmp_path, upgrade=True, progress=progress)
    assert folders(ENTRY, tmp_path) == [before]
    assert "tiny 1.0 is there already" in progress.text


@pytest.mark.usefixtures("wheelhouse")
def test_a_package_that_can_not_be_had_is_named_and_nothing_stays(tmp_path: Path, progress: Recorder) -> None:
    with pytest.raises(
        EnvironmentNotMade, match=r"No matching distribution found for tiny-engine==2\.0.*PIP_INDEX_URL"
    ):
        install(NEXT, tmp_path / "engines", progress=progress)
    assert look(NEXT, tmp_path / "engines").state is Installed.NO
    assert not folders(NEXT, tmp_path / "engines")


@pytest.mark.usefixtures("wheelhouse")
@pytest.mark.parametrize("phase", ["Choosing", "Unpacking"])
def test_an_installation_that_is_interrupted_leaves_nothing(tmp_path: Path, phase: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        install(ENTRY, tmp_path / "engines", progress=Recorder(interrupt_at=phase))
    assert look(ENTRY, tmp_path / "engines").state is Installed.NO
    assert not folders(ENTRY, tmp_path / "engines")


def test_an_interrupted_upgrade_leaves_what_was_there(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheel(wheelhouse, "tiny-engine", "2.0")
    install(ENTRY, tmp_path, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        install(NEXT, tmp_path, upgrade=True, progress=Recorder(interrupt_at="Unpacking"))
    assert version_in(tmp_path) == "1.0"


@pytest.mark.usefixtures("wheelhouse")
def test_what_a_killed_installation_left_is_removed_by_the_next(tmp_path: Path, progress: Recorder) -> None:
    left = tmp_path / ".tiny@0123abcd"
    (left / "lib").mkdir(parents=True)
    (left / "lib" / "half.py").write_text("half")
    assert look(ENTRY, tmp_path).state is Installed.NO
    install(ENTRY, tmp_path, progress=progress)
    assert not left.exists()
    assert version_in(tmp_path) == "1.0"


def test_other_versions_are_installed_only_by_an_upgrade(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheel(wheelhouse, "tiny-engine", "2.0")
    install(ENTRY, tmp_path, progress=progress)
    assert install(NEXT, tmp_path, progress=progress).version == "1.0"
    assert "`quern engines install tiny --upgrade` does it" in progress.text
    assert install(NEXT, tmp_path, upgrade=True, progress=progress).version == "2.0"
    assert version_in(tmp_path) == "2.0"
    assert len(folders(ENTRY, tmp_path)) == 1


def test_an_upgrade_lets_a_running_server_keep_its_files(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheel(wheelhouse, "tiny-engine", "2.0")
    install(ENTRY, tmp_path, progress=progress)
    (first,) = folders(ENTRY, tmp_path)
    with something_running(tmp_path) as running:
        assert users(first) == [running.pid]
        install(NEXT, tmp_path, upgrade=True, progress=progress)
        assert first.exists()
        assert "A server still runs in the environment of before" in progress.text
        assert version_in(tmp_path) == "2.0"
    install(NEXT, tmp_path, progress=progress)
    assert not first.exists()


@pytest.mark.usefixtures("wheelhouse")
def test_an_environment_is_removed_unless_something_runs_in_it(tmp_path: Path, progress: Recorder) -> None:
    disk = install(ENTRY, tmp_path, progress=progress).disk
    with something_running(tmp_path) as running, pytest.raises(EnvironmentNotMade, match=f"process {running.pid}, so"):
        remove(ENTRY, tmp_path)
    assert remove(ENTRY, tmp_path) == disk
    assert remove(ENTRY, tmp_path) == 0
    assert not folders(ENTRY, tmp_path)
    assert look(ENTRY, tmp_path).state is Installed.NO


def test_somebodys_own_environment_is_listed_and_left_alone(tmp_path: Path, progress: Recorder) -> None:
    own = tmp_path / "tiny"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python").symlink_to("/bin/true")
    (own / "lib" / "python3.11" / "site-packages" / "tiny_engine-0.9.dist-info").mkdir(parents=True)
    assert (look(ENTRY, tmp_path).state, look(ENTRY, tmp_path).version) == (Installed.OWN, "0.9")
    with pytest.raises(EnvironmentNotMade, match="was not made by `quern engines install`"):
        install(ENTRY, tmp_path, progress=progress)
    with pytest.raises(EnvironmentNotMade, match="was not made by `quern engines install`"):
        remove(ENTRY, tmp_path)
    assert own.exists()


def test_what_does_not_fit_a_package_is_taken_out_again(wheelhouse: Path, tmp_path: Path, progress: Recorder) -> None:
    build_wheel(wheelhouse, "misfit", "1.0")
    entry = replace(ENTRY, requirements=("tiny-engine==1.0", "misfit==1.0"), unwanted=("misfit", "never-installed"))
    install(entry, tmp_path, progress=progress)
    assert version_in(tmp_path) == "1.0"
    assert not list((tmp_path / "tiny").glob("lib/*/site-packages/misfit*"))


def test_an_environment_that_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path, progress: Recorder) -> None:
    with pytest.raises(EnvironmentNotMade, match=r"tiny needs 1600000\.0 GB"):
        install(replace(ENTRY, disk=10**15), tmp_path, progress=progress)
    assert not progress.phases


def test_a_build_for_cpus_is_only_chosen_where_there_is_one(
    wheelhouse: Path, tmp_path: Path, progress: Recorder
) -> None:
    with pytest.raises(ConfigError, match="tiny comes in one build only"):
        install(ENTRY, tmp_path, cpu=True, progress=progress)
    build_wheel(wheelhouse, "tiny-engine", "1.0+cpu")
    entry = replace(ENTRY, cpu_requirements=("tiny-engine==1.0+cpu",), disk_cpu=10**6)
    install(entry, tmp_path, cpu=True, progress=progress)
    assert version_in(tmp_path) == "1.0+cpu"


def test_two_installations_of_one_environment_are_not_made_at_once(tmp_path: Path, wheelhouse: Path) -> None:
    class Second(Recorder):
        def notice(self, message: str) -> None:
            with pytest.raises(EnvironmentNotMade, match="Another `quern engines` command is at work on tiny"):
                install(ENTRY, tmp_path, progress=Recorder())
            super().notice(message)

    first = Second()
    install(ENTRY, tmp_path, progress=first)
    assert first.notices
