"""How much memory this process may have, and how much of it is left: control groups, limits, the system's own word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.hardware.cgroup import (
    Bound,
    Group,
    Mount,
    find_folders,
    memory_bounds,
    parse_membership,
    parse_mounts,
    read_groups,
    read_notes,
)
from llmrun.hardware.host_memory import (
    HostMemory,
    limited,
    mac_memory,
    parse_meminfo,
    process_bounds,
    read_bounds,
    read_host_memory,
)
from llmrun.hardware.macos import parse_sysctl, parse_vm_stat
from scripts.synthetic import Shape, write_model
from tests.environments import clean_environment
from tests.hardware_trees import golden, plant

GIB, MIB = 1 << 30, 1 << 20
HOST = HostMemory(65722456 << 10, 48213904 << 10, swap_total=8388604 << 10, swap_free=8101884 << 10)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

# ---- control groups, as files


@on_linux
@pytest.mark.parametrize(
    ("machine", "limit", "available", "by"),
    [
        ("docker-v2", 2 * GIB, 2 * GIB - 84 * MIB, "memory.max of control group /"),
        # 256 MiB of the group are in swap, and its limit is one on both
        ("docker-v1", 2 * GIB, 2 * GIB - 340 * MIB, "memory.limit_in_bytes of control group /docker/3f9c1d6a"),
        # the container has no limit of its own: the pod has, whose group cannot be seen
        ("kubernetes-v1", 4 * GIB, 4 * GIB - 256 * MIB, "a control group above /kubepods/burstable/pod85401dd3"),
        ("kubernetes-v2", 7730941952, 7730941952 - 256 * MIB, "memory.high of control group /"),
        # the least limit is not the one that leaves least: others have used up most of the user's
        ("systemd-v2", 4 * GIB, 2 * GIB, "memory.high of control group /user.slice/user-1000.slice/user@1000"),
        ("hybrid", 2 * GIB, 2 * GIB - 233472, "memory.limit_in_bytes of control group /jobs/box"),
        ("mounted-elsewhere", 3 * GIB, 3 * GIB - 512 * MIB, "memory.max of control group /machine.slice/box"),
        ("another-namespace", GIB, GIB - 100 * MIB, "memory.max of control group /../build.scope"),
        ("outside-the-mount", GIB, GIB - 100 * MIB, "memory.max of control group /machine.slice/box"),
    ],
)
def test_the_limits_of_all_groups_on_the_way_up_hold(
    tmp_path: Path, machine: str, limit: int, available: int, by: str
) -> None:
    found = read_host_memory(plant(tmp_path, "host-64gib", machine))
    assert (found.limited_by or "").startswith(by)
    assert replace(found, limited_by=None) == HostMemory(
        limit, available, limit, None, HOST.swap_total, HOST.swap_free, HOST.total, HOST.available - available
    )


@on_linux
@pytest.mark.parametrize("machine", [None, "unlimited"])
def test_without_a_limit_there_is_what_the_machine_has(tmp_path: Path, machine: str | None) -> None:
    assert read_host_memory(plant(tmp_path, "host-64gib", *([machine] if machine else []))) == HOST


def test_pages_of_a_mapped_model_are_not_used_memory_though_they_are_active(tmp_path: Path) -> None:
    """Less usage alone, a container of 2 GiB would refuse the second run of a model of 1.5."""
    (group,) = read_groups("memory", plant(tmp_path, "docker-v2"))
    (bound,) = memory_bounds([group])
    assert bound.available == 2 * GIB - 84 * MIB
    assert bound.limit - int(group.files["memory.current"]) == 412 * MIB


def test_shared_and_locked_pages_are_used_memory() -> None:
    """They are in memory.current, and not among the pages of files."""
    stat = "file 900\nshmem 500\ninactive_file 100\nactive_file 200\nunevictable 100\n"
    group = Group("/box", {"memory.max": "2000", "memory.current": "1000", "memory.stat": stat})
    assert memory_bounds([group]) == (Bound("memory.max of control group /box", 2000, 1300),)


def test_a_group_that_does_not_count_those_below_does_not_limit_them() -> None:
    """Version 1 had a switch for it."""
    own = Group("/a/b", {"memory.limit_in_bytes": "9223372036854771712\n"})
    above = Group("/a", {"memory.limit_in_bytes": "1000\n", "memory.use_hierarchy": "0\n"})
    assert memory_bounds([own, above]) == ()
    assert memory_bounds([above])[0].limit == 1000


def test_a_group_over_its_limit_leaves_nothing() -> None:
    group = Group("/a", {"memory.high": "1000", "memory.current": "5000"})
    assert memory_bounds([group]) == (Bound("memory.high of control group /a", 1000, 0),)


def test_a_name_of_a_group_may_hold_colons() -> None:
    assert parse_membership("5:cpu,memory:/a.slice:cri:0f99\n0::/b\nnonsense\n") == {
        "cpu": "/a.slice:cri:0f99",
        "memory": "/a.slice:cri:0f99",
        "": "/b",
    }


def test_mounts_are_read_with_their_escapes() -> None:
    assert parse_mounts(
        "80 24 0:30 /a\\040b /run/c\\134d rw shared:4 master:1 - cgroup2 x rw\n81 24 0:1 / / rw - ext4 a b"
    ) == (Mount(None, "/a b", "/run/c\\d"),)


def test_of_two_mounts_of_one_hierarchy_that_which_shows_the_group_counts() -> None:
    mounts = (
        Mount(None, "/other", "/mnt/other"),
        Mount(None, "/a/b", "/mnt/inner"),
        Mount(None, "/", "/sys/fs/cgroup"),
    )
    folders = find_folders({"": "/a/b"}, mounts, "memory")
    assert [folder.path for folder in folders] == [
        "/sys/fs/cgroup/a/b",
        "/sys/fs/cgroup/a",
        "/sys/fs/cgroup",
        "/mnt/inner",
    ]


def test_groups_that_are_not_mounted_are_a_note_and_no_error(tmp_path: Path) -> None:
    assert read_notes(plant(tmp_path, "docker-v2")) == ()
    (tmp_path / "proc/self/mountinfo").write_text("21 1 0:19 / /proc rw - proc proc rw\n")
    assert read_notes(tmp_path) == (
        "control groups are not mounted here: their limits on memory and processors cannot be seen",
    )
    assert read_bounds(tmp_path) == ()


@given(
    text=st.text() | st.from_regex(r"(\d+:\w*:/\w*\n|\d+ \d+ \d:\d /\w* /\w* rw - cgroup2? \w* \w*\n)*", fullmatch=True)
)
def test_whatever_stands_in_those_files_nothing_is_raised(text: str) -> None:
    folders = find_folders(parse_membership(text), parse_mounts(text), "memory")
    assert all(folder.path.startswith("/") or folder.path == "." for folder in folders) or "\\" in text
    group = Group("/", dict.fromkeys(("memory.max", "memory.current", "memory.stat"), text))
    assert all(0 <= bound.available <= bound.limit for bound in memory_bounds([group]))
    assert process_bounds(text, text) is not None
    assert parse_meminfo(text) is None
    assert mac_memory(parse_sysctl(text), parse_vm_stat(text)) is None


# ---- limits of the process


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max data size             {data:<20} unlimited            bytes
Max address space         {space:<20} unlimited            bytes
"""
STATUS = "Name:\tpython\nVmPeak:\t 2100000 kB\nVmSize:\t 1048576 kB\nVmData:\t   10240 kB\n"


def test_limits_of_the_process_are_less_what_a_worker_takes_or_this_process_has() -> None:
    assert process_bounds(LIMITS.format(data="unlimited", space="unlimited"), STATUS) == ()
    assert process_bounds(LIMITS.format(data=2 * GIB, space=4 * GIB), STATUS) == (
        Bound("RLIMIT_AS (ulimit -v)", 4 * GIB, 3 * GIB),
        Bound("RLIMIT_DATA (ulimit -d)", 2 * GIB, 2 * GIB - 128 * MIB),
    )


def test_a_limit_above_what_the_machine_has_is_none() -> None:
    assert limited(HOST, [Bound("roomy", HOST.total, 0)]) == HOST


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40))),
    st.integers(0, 1 << 38),
    st.integers(0, 1 << 38),
)
def test_another_limit_never_leaves_more(bounds: list[tuple[int, int]], total: int, free: int) -> None:
    memory = HostMemory(total, min(total, free))
    made = [Bound("b", limit, min(limit, left)) for limit, left in bounds]
    found = [limited(memory, made[:n]) for n in range(len(made) + 1)]
    assert [each.available for each in found] == sorted((each.available for each in found), reverse=True)
    assert all(0 <= each.available <= each.total for each in found)
    assert all(each.available + each.outside == memory.available for each in found)


# ---- what the systems say


def test_meminfo_is_read_as_psutil_reads_it(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("psutil reads /proc/meminfo on Linux only")
    plant(tmp_path, "host-64gib")
    (tmp_path / "proc/vmstat").write_text("pswpin 0\npswpout 0\n")
    psutil.PROCFS_PATH = str(tmp_path / "proc")
    try:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    finally:
        psutil.PROCFS_PATH = "/proc"
    assert parse_meminfo(golden("host-64gib.txt")) == HOST
    assert (memory.total, memory.available, swap.total, swap.free) == (
        HOST.total,
        HOST.available,
        HOST.swap_total,
        HOST.swap_free,
    )


def test_where_available_is_more_than_there_is_only_what_is_free_counts() -> None:
    assert parse_meminfo("MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 9000 kB\n") == HostMemory(1024000, 307200)


def test_a_macs_memory_is_what_activity_monitor_does_not_call_used() -> None:
    page = 16384
    found = mac_memory(parse_sysctl(golden("sysctl.m1-pro.txt")), parse_vm_stat(golden("vm_stat.m1.txt")))
    swap_total, swap_free = 2 * GIB, int(1200.19 * MIB)
    assert found == HostMemory(16 * GIB, (4518 + 141843 + 630) * page, swap_total=swap_total, swap_free=swap_free)


def test_this_machine_has_memory() -> None:
    found = read_host_memory()
    assert 0 < found.available <= found.total <= psutil.virtual_memory().total


# ---- a real group, a real limit


def group_folder() -> Path:
    """A new control group that limits memory, below this process's own in version 1, or at the top in version 2."""
    name = f"llmrun-test-{os.getpid()}"
    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    folders = find_folders(parse_membership(Path("/proc/self/cgroup").read_text()), mounts, "memory")
    places = [Path(folder.path) for folder in folders]
    v1 = [place for place in places if (place / "memory.limit_in_bytes").exists()]
    v2 = [place for place in places if "memory" in _words(place / "cgroup.subtree_control")]
    if not v1 and not v2:
        pytest.skip("there is no control group for memory here")
    try:
        folder = (v1[0] if v1 else v2[0]) / name
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    return folder


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 2 GiB, empty when the test is over."""
    folder = group_folder()
    try:
        (folder / ("memory.limit_in_bytes" if _is_v1(folder) else "memory.max")).write_text(str(2 * GIB))
        yield folder
    finally:
        folder.rmdir()


def _is_v1(folder: Path) -> bool:
    return (folder / "memory.limit_in_bytes").exists()


def run_in(group: Path, home: Path, *arguments: str) -> CompletedProcess[str]:
    """Run Python with these arguments inside a group; the shell moves itself there first."""
    script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    command = ["sh", "-c", script, str(group), sys.executable, "-P", *arguments]
    environment = clean_environment(home)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)


READ = """
import json
from dataclasses import asdict
from llmrun.hardware.host_memory import read_host_memory
print(json.dumps(asdict(read_host_memory())))
"""


def test_a_process_in_a_group_of_2_gib_sees_2_gib(small_group: Path, tmp_path: Path) -> None:
    outside = asdict(read_host_memory())
    if outside["total"] <= 2 * GIB:
        pytest.skip("this machine has no more than 2 GiB")
    found = json.loads(run_in(small_group, tmp_path, "-c", READ).stdout)
    assert (found["total"], found["limit"], found["machine_total"]) == (2 * GIB, 2 * GIB, outside["total"])
    assert found["limited_by"].endswith(small_group.name)
    assert 2 * GIB - 64 * MIB < found["available"] < 2 * GIB


@on_linux
def test_a_process_with_a_limit_on_its_address_space_sees_that(tmp_path: Path) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}))" + READ
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["total"], found["limited_by"]) == (GIB, "RLIMIT_AS (ulimit -v)")
    assert found["available"] <= GIB - 384 * MIB


def test_a_plan_is_the_same_after_a_run_in_the_same_group(
    small_group: Path, tmp_path: Path, make_large: Callable[[Path], Path]
) -> None:
    """The model's pages stay in the group's page cache: counted as used, the second plan would have less."""
    model = make_large(tmp_path / "large.gguf")

    def available() -> int:
        plan = run_in(small_group, tmp_path, "-m", "llmrun.cli.main", "plan", str(model), "--json", "--device", "none")
        pool = json.loads(plan.stdout)["pools"][0]
        assert (pool["id"], pool["total"]) == ("host", 2 * GIB)
        return int(pool["available"])

    before = available()
    run_in(small_group, tmp_path, "-m", "llmrun.cli.main", "run", str(model), "hello", "-n", "2", "-t", "1")
    after = available()
    used = int((small_group / ("memory.usage_in_bytes" if _is_v1(small_group) else "memory.current")).read_text())
    assert abs(after - before) < 8 * MIB
    assert before - (2 * GIB - used) > model.stat().st_size // 2


@pytest.fixture
def make_large() -> Callable[[Path], Path]:
    """A function that writes a model of some 100 MB, of which nothing is in the page cache."""

    def make(path: Path) -> Path:
        write_model(path, Shape("llama", 8, 1024, 3072, 16, 8, 64, 8192, 2048), mix="Q8_0")
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
        return path

    return make
