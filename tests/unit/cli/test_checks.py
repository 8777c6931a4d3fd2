"""What the doctor makes of facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.cli.checks import (
    Check,
    CpuFacts,
    DatabaseFacts,
    DatabaseState,
    DiskFacts,
    LocatedModel,
    MemoryFacts,
    PortFacts,
    PortState,
    RemoteFacts,
    Status,
    check_cores,
    check_cpu,
    check_database,
    check_disk,
    check_engine,
    check_memory,
    check_model,
    check_port,
    check_python,
    check_remote,
)
from quern.config_models import EngineName
from quern.engine.completions.request import Abilities
from quern.engine.engine_choice import EngineChoice
from quern.errors import ConfigError

GB = 10**9
CPU = CpuFacts("x86_64", frozenset({"sse2", "avx2", "avx512f", "avx512_vnni"}), physical_cores=8, usable_cores=8)
MEMORY = MemoryFacts(total=16 * GB, available=12 * GB, model=GB, kv_cache=2 * GB, served=False)
MODEL = LocatedModel("qwen2.5-coder-1.5b", Path("/m/file.gguf"), size=GB)
DISK = DiskFacts(Path("/data/quern"), Path("/data"), writable=True, free=50 * GB, to_fetch=GB)
PORT = PortFacts("127.0.0.1", 8001, PortState.FREE)


def test_only_a_python_from_3_11_on_is_fine() -> None:
    assert check_python((3, 11, 0)).status is Status.OK
    assert check_python((4, 0, 0)).status is Status.OK
    assert check_python((3, 10, 15)).status is Status.FAIL


def test_the_cpus_useful_features_are_named() -> None:
    assert check_cpu(CPU) == Check("cpu", Status.OK, "x86_64 with AVX-512 VNNI, AVX-512, AVX2")


def test_an_x86_cpu_without_avx2_fails() -> None:
    assert check_cpu(replace(CPU, flags=frozenset({"sse2", "avx"}))).status is Status.FAIL


@pytest.mark.parametrize("cpu", [replace(CPU, flags=None), replace(CPU, machine="aarch64", flags=frozenset({"asimd"}))])
def test_a_cpu_that_cant_be_judged_is_not_judged(cpu: CpuFacts) -> None:
    assert check_cpu(cpu).status is Status.OK


@pytest.mark.parametrize(
    ("usable", "threads", "status"),
    [(8, None, Status.OK), (2, None, Status.OK), (2, 2, Status.OK), (2, 3, Status.WARN), (8, 9, Status.WARN)],
)
def test_more_threads_than_cores_are_warned_about(usable: int, threads: int | None, status: Status) -> None:
    check = check_cores(replace(CPU, usable_cores=usable), threads)
    assert check.status is status
    assert (f"engine.threads to {usable}" in check.advice) is (status is Status.WARN)


def test_the_engine_is_told_with_its_reason_and_only_one_that_stands_in_for_another_is_a_warning() -> None:
    choice = EngineChoice(EngineName.LLAMACPP, "It is so.")
    assert check_engine(choice) == Check("engine", Status.OK, "llamacpp: It is so.")
    assert check_engine(replace(choice, degraded=True)).status is Status.WARN
    failed = check_engine(ConfigError("It can't be."))
    assert (failed.status, failed.advice) == (Status.FAIL, "It can't be.")


def test_memory_that_is_there_is_fine_and_the_sum_is_shown() -> None:
    check = check_memory(MEMORY)
    assert check.status is Status.OK
    assert check.found.startswith("3.7 GB needed (model 1.0 GB, KV cache 2.0 GB, work 700.0 MB), 12.0 GB available")


def test_memory_that_others_use_is_a_warning_and_memory_that_is_not_there_a_failure() -> None:
    assert check_memory(replace(MEMORY, available=3 * GB)).status is Status.WARN
    assert check_memory(replace(MEMORY, total=3 * GB, available=3 * GB)).status is Status.FAIL


def test_memory_that_the_running_server_has_is_not_missing() -> None:
    assert check_memory(replace(MEMORY, available=GB, served=True)).status is Status.OK


@given(
    sizes=st.tuples(*[st.integers(0, 10**12)] * 4),
    more=st.integers(0, 10**12),
    served=st.booleans(),
)
def test_more_available_memory_never_makes_it_worse(sizes: tuple[int, int, int, int], more: int, served: bool) -> None:
    total, available, model, kv_cache = sizes
    order = [Status.FAIL, Status.WARN, Status.OK]
    before = check_memory(MemoryFacts(total, available, model, kv_cache, served=served))
    after = check_memory(MemoryFacts(total + more, available + more, model, kv_cache, served=served))
    assert order.index(after.status) >= order.index(before.status)


def test_a_model_that_is_here_is_fine_and_says_whether_it_was_checked() -> None:
    assert check_model(MODEL) == Check("model", Status.OK, "qwen2.5-coder-1.5b at /m/file.gguf (1.0 GB)")
    assert "checksum right" in check_model(replace(MODEL, verified=True)).found


def test_a_model_that_is_not_here_is_a_warning_with_the_command_that_fetches_it() -> None:
    check = check_model(replace(MODEL, path=None, held=3 * 10**8))
    assert check.status is Status.WARN
    assert "300.0 MB of it is here" in check.found
    assert "`quern pull qwen2.5-coder-1.5b`" in check.advice


def test_a_model_that_cant_be_used_fails_with_the_reason() -> None:
    check = check_model(replace(MODEL, problem="It is damaged."))
    assert (check.status, check.advice) == (Status.FAIL, "It is damaged.")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, Status.OK),
        ({"writable": False}, Status.FAIL),
        ({"free": GB - 1}, Status.FAIL),
        ({"free": GB + 1}, Status.WARN),
        ({"free": 1, "to_fetch": 0}, Status.WARN),
    ],
)
def test_the_data_directory_must_be_writable_and_have_room(change: dict[str, int], status: Status) -> None:
    check = check_disk(replace(DISK, **change))
    assert check.status is status
    assert ("--data-dir" in check.advice) is (status is not Status.OK)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (DatabaseState.OPENS, Status.OK),
        (DatabaseState.ABSENT, Status.OK),
        (DatabaseState.IN_USE, Status.OK),
        (DatabaseState.BROKEN, Status.FAIL),
    ],
)
def test_only_a_database_that_cant_be_opened_fails(state: DatabaseState, status: Status) -> None:
    assert check_database(DatabaseFacts("/data/quern.db", state)).status is status


@pytest.mark.parametrize(
    ("port", "status", "found"),
    [
        (PORT, Status.OK, "is free"),
        (replace(PORT, state=PortState.QUERN, models=("m",)), Status.OK, "a Quern at 127.0.0.1:8001 serves m"),
        (replace(PORT, state=PortState.QUERN), Status.OK, "is starting or stopping"),
        (replace(PORT, state=PortState.OTHER), Status.FAIL, "another program"),
        (replace(PORT, state=PortState.UNUSABLE, problem="No such device"), Status.FAIL, "No such device"),
    ],
)
def test_a_port_is_fine_when_it_is_free_or_a_quern_has_it(port: PortFacts, status: Status, found: str) -> None:
    check = check_port(port)
    assert check.status is status
    assert found in check.found


@pytest.mark.parametrize(
    ("servers", "status", "found"),
    [
        ([RemoteFacts("a"), RemoteFacts("b")], Status.OK, "2 of 2 servers can be used"),
        ([RemoteFacts("a"), RemoteFacts("b", problem="It is away.")], Status.WARN, "1 of 2"),
        ([RemoteFacts("a", problem="It is away.")], Status.FAIL, "0 of 1"),
        ([RemoteFacts("a"), RemoteFacts("b", ("salts", "grammars"))], Status.WARN, "without grammars, salts"),
    ],
)
def test_one_server_elsewhere_is_enough_and_what_any_of_them_lacks_is_said(
    servers: list[RemoteFacts], status: Status, found: str
) -> None:
    check = check_remote(servers)
    assert check.status is status
    assert found in check.found


def test_whatever_is_not_fine_says_what_to_do() -> None:
    bad = [
        check_python((3, 10, 0)),
        check_cpu(replace(CPU, flags=frozenset())),
        check_cores(replace(CPU, usable_cores=1), 2),
        check_memory(replace(MEMORY, total=0, available=0)),
        check_memory(replace(MEMORY, available=0)),
        check_model(replace(MODEL, path=None)),
        check_remote([RemoteFacts("a", problem="Start it.")]),
        check_remote([RemoteFacts("a", Abilities(False, False, False, False).lacking)]),
        check_disk(replace(DISK, writable=False)),
        check_database(DatabaseFacts("quern.db", DatabaseState.BROKEN, "Restore a backup.")),
        check_port(replace(PORT, state=PortState.OTHER)),
        check_port(replace(PORT, state=PortState.UNUSABLE)),
    ]
    assert [check.name for check in bad if check.status is Status.OK or not check.advice.endswith(".")] == []
