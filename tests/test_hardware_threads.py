"""How many threads: cores, affinity, quotas, and what else the machine is doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.hardware.cgroup import Group, cpu_quota, read_groups
from llmrun.hardware.cores import (
    Core,
    mac_cores,
    numbered_cores,
    parse_core_files,
    parse_cpu_list,
    read_allowed,
    read_core_files,
    read_cores,
    usable_cores,
)
from llmrun.hardware.load import (
    CpuTimes,
    busy_processors,
    parse_process_stat,
    parse_stat,
    read_cpu_times,
    sample_load,
)
from llmrun.hardware.macos import parse_sysctl
from llmrun.hardware.threads import Threads, choose_threads, count_threads, plan_threads, usual_threads
from tests.hardware_trees import golden, plant

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="these files are Linux's")


def core(*cpus: int, performance: bool = True) -> Core:
    return Core(frozenset(cpus), performance)


# ---- cores


def test_a_hybrid_processor_has_fast_cores_with_two_threads_and_slow_ones_with_one(tmp_path: Path) -> None:
    fast = tuple(core(n, n + 1) for n in range(0, 16, 2))
    slow = tuple(core(n, performance=False) for n in range(16, 20))
    assert parse_core_files(read_core_files(plant(tmp_path, "cores.i7-12700"))) == fast + slow


def test_arms_little_cores_are_slow_ones(tmp_path: Path) -> None:
    assert parse_core_files(read_core_files(plant(tmp_path, "cores.rk3588"))) == tuple(
        core(n, performance=n >= 4) for n in range(8)
    )


def test_processors_that_are_off_are_not_there(tmp_path: Path) -> None:
    found = parse_core_files(read_core_files(plant(tmp_path, "cores.two-offline")))
    assert found == (core(0, 4), core(1, 5), core(6), core(7))


def test_where_sysfs_says_nothing_cpuinfo_tells_the_cores(tmp_path: Path) -> None:
    """Two packages of two cores with two threads each; Arm's says no more than that there are four processors."""
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.write_text(golden("cpuinfo.epyc.txt"))
    assert parse_core_files(read_core_files(tmp_path)) == (core(0, 2), core(1, 3), core(4, 6), core(5, 7))
    cpuinfo.write_text(golden("cpuinfo.raspberry-pi-5.txt"))
    assert parse_core_files(read_core_files(tmp_path)) == (core(0), core(1), core(2), core(3))
    cpuinfo.unlink()
    assert parse_core_files(read_core_files(tmp_path)) == ()


def test_a_macs_first_performance_level_is_the_fast_one() -> None:
    found = mac_cores(parse_sysctl(golden("sysctl.m1-pro.txt")))
    assert found == tuple(core(n, performance=n < 8) for n in range(10))
    assert mac_cores(parse_sysctl(golden("sysctl.intel-mac.txt"))) == numbered_cores(6, 12)
    assert mac_cores({}) == ()


def test_numbered_cores_have_their_siblings_side_by_side() -> None:
    assert numbered_cores(2, 4) == (core(0, 1), core(2, 3))


def test_a_list_of_processors_is_single_ones_and_ranges() -> None:
    assert parse_cpu_list("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert parse_cpu_list("") == frozenset()


def test_of_a_core_only_the_processors_we_may_use_count() -> None:
    assert usable_cores([core(0, 1), core(2, 3), core(4, 5)], frozenset({1, 2, 3})) == (core(1), core(2, 3))


def test_this_machines_cores_hold_each_processor_once() -> None:
    numbers = [number for found in read_cores() for number in found.cpus]
    assert len(numbers) == len(set(numbers)) == os.cpu_count()
    assert len(read_cores()) == (psutil.cpu_count(logical=False) or os.cpu_count())


# ---- quotas


@pytest.mark.parametrize(
    ("machine", "quota"),
    [
        ("docker-v2", 1.5),
        ("docker-v1", None),  # -1
        ("kubernetes-v1", 4.0),
        ("kubernetes-v2", 2.5),
        ("systemd-v2", 3.0),  # 6 of its own, within 3 of the user's
        ("unlimited", None),  # "max 100000"
        ("hybrid", None),
        ("cores.rk3588", None),  # no control groups at all
    ],
)
def test_the_least_quota_on_the_way_up_holds(tmp_path: Path, machine: str, quota: float | None) -> None:
    assert cpu_quota(read_groups("cpu", plant(tmp_path, machine))) == quota


def test_a_quota_that_is_no_number_is_none() -> None:
    files: tuple[dict[str, str], ...] = (
        {"cpu.max": ""},
        {"cpu.max": "max"},
        {"cpu.max": "5 0"},
        {"cpu.cfs_quota_us": "100"},
        {},
    )
    assert cpu_quota([Group("/", each) for each in files]) is None


# ---- how busy it is


def test_the_time_of_processors_is_all_but_idle_and_waiting() -> None:
    """The line that sums them up is not one of them; a machine without steal has fewer columns."""
    busy, niced = parse_stat(golden("stat.two-cores.txt"), 100)
    assert busy == {0: 4224.86, 1: 4717.93}
    assert niced == {0: 285.1, 1: 273.78}
    assert parse_stat("cpu3 100 20 30 5000\n", 100) == ({3: 1.5}, {3: 0.2})


@pytest.mark.parametrize("text", ["", "cpu", "cpu0 a b c d", "cpu0 1 2", "\n \n", "cpu0 1 2 3 ²"])
def test_what_is_no_such_line_is_left_out(text: str) -> None:
    assert parse_stat(text, 100) == ({}, {})
    assert parse_process_stat(text, 100) == 0.0


def test_a_process_may_be_called_anything() -> None:
    text = "4242 (a) R (b 9) S 1 4242 4242 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10 0"
    assert parse_process_stat(text, 100) == 3.0


def times(at: float, *busy: float, niced: float = 0.0, own: float = 0.0) -> CpuTimes:
    return CpuTimes(at, dict(enumerate(busy)), {n: niced if n == 0 else 0.0 for n in range(len(busy))}, own)


def test_what_others_take_is_what_was_worked_less_our_own_and_niced_work() -> None:
    before, after = times(10.0, 5.0, 7.0), times(10.1, 5.1, 7.1, niced=0.03, own=0.05)
    assert busy_processors(before, after) == pytest.approx(1.2)
    assert busy_processors(before, after, with_niced=True) == pytest.approx(1.5)


def test_processors_we_may_not_use_may_be_as_busy_as_they_like() -> None:
    before, after = times(10.0, 5.0, 7.0), times(10.1, 5.1, 7.02)
    assert busy_processors(before, after, frozenset({1})) == pytest.approx(0.2)


def test_a_moment_that_took_no_time_tells_nothing() -> None:
    assert busy_processors(times(10.0, 5.0), times(10.0, 6.0)) == 0.0
    assert busy_processors(times(10.0), times(10.1)) == 0.0


@on_linux
def test_our_own_work_is_known(tmp_path: Path) -> None:
    """A process that is given counts as ours: its time, and nobody else's, is what is told more with it."""
    spin = "x = 0\nwhile True: x += 1"
    with subprocess.Popen([sys.executable, "-c", spin]) as process:
        try:
            while psutil.Process(process.pid).cpu_times().user < 0.2:
                pass
            alone, both = read_cpu_times(), read_cpu_times((process.pid,))
        finally:
            process.kill()
    assert both.own - alone.own >= 0.2
    assert set(both.busy) == {number for found in read_cores() for number in found.cpus}


def test_looking_twice_is_short() -> None:
    before, after = sample_load()
    assert after.at > before.at
    assert all(after.busy[number] >= before.busy[number] for number in before.busy)


# ---- the choice

TWO = numbered_cores(2, 2)
EIGHT_SMT = numbered_cores(8, 16)
HYBRID = (*(core(n, n + 1) for n in range(0, 16, 2)), *(core(n, performance=False) for n in range(16, 20)))


@pytest.mark.parametrize(
    ("cores", "allowed", "quota", "busy", "found"),
    [
        (TWO, None, None, 0.0, Threads(2, 2, "2 physical cores: 2 threads")),
        (numbered_cores(1, 1), None, None, 0.0, Threads(1, 1, "1 physical core: 1 thread")),
        (TWO, None, None, 1.1, Threads(1, 1, "2 physical cores, 1 busy with other work: 1 thread for now")),
        (TWO, None, None, 2.0, Threads(1, 1, "2 physical cores, 2 busy with other work: 1 thread for now")),
        (TWO, None, None, 0.49, Threads(2, 2, "2 physical cores: 2 threads")),
        # what is short are logical processors: six are left, and eight of sixteen are more than enough
        (EIGHT_SMT, None, None, 10.0, Threads(6, 6, "8 physical cores, 10 busy with other work: 6 threads for now")),
        (EIGHT_SMT, None, None, 8.0, Threads(8, 8, "8 physical cores, 8 busy with other work: 8 threads")),
        (HYBRID, None, None, 0.0, Threads(8, 8, "8 performance cores of 12: 8 threads")),
        # pinned to slow cores: those then
        (HYBRID, frozenset({16, 17}), None, 0.0,
         Threads(2, 2, "2 physical cores, the others of 12 not allowed: 2 threads")),
        (EIGHT_SMT, frozenset({0, 1, 2}), None, 0.0,
         Threads(2, 2, "2 physical cores, the others of 8 not allowed: 2 threads")),
        (TWO, None, 1.2, 0.0, Threads(1, 1, "2 physical cores, a quota of 1.2 processors: 1 thread")),
        (TWO, None, 1.5, 0.0,
         Threads(1, 2, "2 physical cores, a quota of 1.5 processors: 1 thread, 2 to read prompts")),
        (TWO, None, 1.9, 0.0, Threads(2, 2, "2 physical cores, a quota of 1.9 processors: 2 threads")),
        (TWO, None, 0.1, 0.0, Threads(1, 1, "2 physical cores, a quota of 0.1 processors: 1 thread")),
        (TWO, None, 3.0, 0.0, Threads(2, 2, "2 physical cores: 2 threads")),
        (TWO, frozenset({7}), None, 0.0, Threads(1, 1, "1 physical core, the others of 2 not allowed: 1 thread")),
    ],
)  # fmt: skip
def test_threads_are_the_least_of_what_there_is(
    cores: tuple[Core, ...], allowed: frozenset[int] | None, quota: float | None, busy: float, found: Threads
) -> None:
    assert plan_threads(cores, allowed, quota, busy) == found


machines = st.builds(
    numbered_cores, st.integers(1, 64), st.sampled_from([64, 128]), st.none() | st.integers(0, 64)
)  # fmt: skip
quotas = st.none() | st.floats(0.01, 200)


@given(cores=machines, allowed=st.none() | st.frozensets(st.integers(0, 130)), quota=quotas, busy=st.floats(0, 300))
def test_there_is_always_a_thread_and_never_one_without_a_core(
    cores: tuple[Core, ...], allowed: frozenset[int] | None, quota: float | None, busy: float
) -> None:
    found = plan_threads(cores, allowed, quota, busy)
    assert 1 <= found.decode <= found.batch <= len(cores)
    assert found.decode <= max(1, (quota or 1000) + 0.5)


@given(cores=machines, quota=st.floats(0.01, 100), busy=st.floats(0, 100), more=st.floats(0, 100))
def test_more_quota_never_takes_threads_and_more_other_work_never_gives_any(
    cores: tuple[Core, ...], quota: float, busy: float, more: float
) -> None:
    def both(quota: float, busy: float) -> tuple[int, int]:
        found = plan_threads(cores, None, quota, busy)
        return found.decode, found.batch

    assert both(quota, busy) <= both(quota + more, busy)
    assert both(quota, busy + more) <= both(quota, busy)


def test_the_usual_threads_do_not_depend_on_the_moment() -> None:
    assert usual_threads() == usual_threads()
    assert count_threads() == usual_threads().decode
    assert "busy" not in usual_threads().reason


def test_beside_other_work_there_are_never_more_threads_than_usual() -> None:
    found, usual = choose_threads(), usual_threads()
    assert (found.decode <= usual.decode, found.batch <= usual.batch) == (True, True)


@on_linux
def test_affinity_is_respected() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from llmrun.hardware.threads import usual_threads; print(usual_threads().decode)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert read_allowed() == frozenset(os.sched_getaffinity(0))
