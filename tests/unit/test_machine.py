"""How much of a machine is ours, on machines that are made up of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from quern.machine import SystemFiles, cgroup_values, memory, physical_cores, usable_cores

GB = 10**9


class MadeUp:
    """A machine in a folder; it has no control groups and no topology until they are put there."""

    def __init__(self, folder: Path) -> None:
        self.files = SystemFiles(folder / "cpu", folder / "cgroup", folder / "membership")
        self.files.cgroups.mkdir()
        (folder / "cpu.max").write_text("1 1\n")

    def cores(self, *cores: Sequence[int]) -> MadeUp:
        """Each core is the CPUs that share it."""
        for cpus in cores:
            for cpu in cpus:
                topology = self.files.cpus / f"cpu{cpu}" / "topology"
                topology.mkdir(parents=True)
                (topology / "thread_siblings_list").write_text(",".join(map(str, cpus)) + "\n")
        return self

    def group(self, path: str, **values: str) -> MadeUp:
        """Put limits into a control group: `cpu="150000 100000"`."""
        folder = self.files.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        for controller, value in values.items():
            (folder / f"{controller}.max").write_text(value + "\n")
        return self

    def inside(self, path: str) -> MadeUp:
        """This process is in that group."""
        self.files.cgroup_membership.write_text(f"4:memory:/elsewhere\n0::/{path}\n")
        return self


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path)


def test_cpus_that_share_a_core_count_once(made_up: MadeUp) -> None:
    made_up.cores([0, 4], [1, 5], [2, 6], [3, 7])
    assert usable_cores(range(8), made_up.files) == 4


def test_only_cores_in_the_affinity_mask_count(made_up: MadeUp) -> None:
    made_up.cores([0, 4], [1, 5], [2, 6], [3, 7])
    assert usable_cores({0, 4}, made_up.files) == 1
    assert usable_cores({0, 1, 5}, made_up.files) == 2
    assert usable_cores({6, 7}, made_up.files) == 2


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 4)],
)
def test_a_quota_of_cpu_time_is_worth_its_whole_cores_but_never_none(made_up: MadeUp, quota: str, cores: int) -> None:
    made_up.cores([0], [1], [2], [3]).group("quern.service", cpu=quota).inside("quern.service")
    assert usable_cores(range(4), made_up.files) == cores


def test_the_narrowest_of_the_groups_around_this_process_counts(made_up: MadeUp) -> None:
    made_up.cores([0], [1], [2], [3])
    made_up.group("a", cpu="100000 100000").group("a/b", cpu="300000 100000").group("c", cpu="100 100000")
    assert usable_cores(range(4), made_up.inside("a/b").files) == 1


def test_in_a_container_the_root_of_the_groups_has_the_limit(made_up: MadeUp) -> None:
    made_up.cores([0], [1], [2]).group("", cpu="200000 100000").inside("")
    assert usable_cores(range(3), made_up.files) == 2


def test_without_a_topology_the_machines_own_count_is_the_most(made_up: MadeUp) -> None:
    assert usable_cores(range(10**4), made_up.files) == physical_cores()
    assert usable_cores({0}, made_up.files) == 1


def test_a_topology_of_which_a_part_can_not_be_read_is_not_guessed_from(made_up: MadeUp) -> None:
    made_up.cores([0], [1])
    assert usable_cores([0, 1, *range(10**4, 2 * 10**4)], made_up.files) == physical_cores()


def test_on_this_machine_no_more_cores_are_ours_than_the_affinity_mask_has() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_memory_is_the_machines_or_the_least_that_a_group_allows(made_up: MadeUp) -> None:
    assert memory(made_up.files).total == psutil.virtual_memory().total
    made_up.group("a", memory=str(GB // 10)).group("a/b", memory="max").inside("a/b")
    assert memory(made_up.files).total == GB // 10
    assert memory(made_up.files).available <= GB // 10


def test_the_limits_of_a_container_and_of_those_around_it_are_found(made_up: MadeUp, tmp_path: Path) -> None:
    made_up.group("system.slice", cpu="max 100000").group("system.slice/quern.service", cpu="150000 100000")
    made_up.inside("system.slice/quern.service")
    assert cgroup_values("cpu.max", made_up.files) == [["150000", "100000"], ["max", "100000"]]
    assert cgroup_values("memory.max", made_up.files) == []
    made_up.files.cgroup_membership.write_text("4:memory:/system.slice\n")
    assert cgroup_values("cpu.max", made_up.files) == []
    made_up.files.cgroup_membership.unlink()
    assert cgroup_values("cpu.max", made_up.files) == []
