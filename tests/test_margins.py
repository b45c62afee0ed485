"""What loads teach about reserves, and the watch on memory while a model runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.chat.memory_watch import MemoryWatch
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.margins import HOST, pool_name, read_margins, remember_margins
from llmrun.planning.margins import N_SEEN, Margin, adjusted
from llmrun.planning.pools import DEVICE_RESERVE, host_reserve
from llmrun.site import Site

Run = Callable[..., CompletedProcess[str]]
GIB, MIB = 1 << 30, 1 << 20
CARD = Device("CUDA0", "CUDA", "a card", 8 * GIB, 7 * GIB)

margins = st.lists(st.builds(Margin, st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=40)


# ---- the rule


def test_nothing_seen_changes_nothing() -> None:
    assert adjusted(512 * MIB, (), shrinks=True) == 512 * MIB


def test_a_reserve_grows_by_the_largest_excess_of_the_last_loads() -> None:
    seen = [Margin(100, 90), Margin(100, 130), Margin(100, 110)]
    assert adjusted(500, seen, shrinks=True) == 530
    assert adjusted(500, [*seen, *[Margin(100, 100)] * N_SEEN], shrinks=False) == 500


def test_a_devices_reserve_shrinks_to_a_half_after_five_loads_as_planned() -> None:
    fine = [Margin(100, 99)]
    assert [adjusted(512, fine * count, shrinks=True) for count in (4, 5)] == [512, 256]
    assert adjusted(512, fine * 20, shrinks=False) == 512


@given(st.integers(0, 1 << 40), margins, st.booleans())
def test_a_reserve_is_never_less_than_half_nor_more_than_the_excess_on_top(
    start: int, seen: list[Margin], shrinks: bool
) -> None:
    most = max((margin.excess for margin in seen), default=0)
    assert start // 2 <= adjusted(start, seen, shrinks=shrinks) <= start + max(0, most)


# ---- the file


def test_what_is_remembered_is_read_again_the_oldest_first(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "margins.jsonl"
    for size in range(3):
        remember_margins({HOST: Margin(size, 2 * size), "CUDA a card 8": Margin(7, 8)}, file)
    assert read_margins(file) == {
        HOST: (Margin(0, 0), Margin(1, 2), Margin(2, 4)),
        "CUDA a card 8": (Margin(7, 8),) * 3,
    }


def test_only_the_last_loads_are_read_and_the_file_stays_short(tmp_path: Path) -> None:
    file = tmp_path / "margins.jsonl"
    for size in range(450):
        remember_margins({HOST: Margin(size, size)}, file)
    assert [margin.planned for margin in read_margins(file)[HOST]] == list(range(450 - N_SEEN, 450))
    assert len(file.read_text().splitlines()) == 400


@pytest.mark.parametrize(
    "damage", ["", "nonsense", "[]", "{}", '{"pool": 1, "planned": 1, "actual": 1}', '{"pool": "a", "planned": -1}']
)
def test_a_damaged_line_is_none(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "margins.jsonl"
    file.write_text(damage + '\n{"pool": "host", "planned": 1, "actual": 2}\n\xff\n', "latin-1")
    assert read_margins(file) == {HOST: (Margin(1, 2),)}


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remember_margins({HOST: Margin(1, 2)}, tmp_path / "file" / "margins.jsonl")
    assert read_margins(tmp_path / "file" / "margins.jsonl") == {}


# ---- where it counts


def site(**seen: tuple[Margin, ...]) -> Site:
    known = {HOST if name == "host" else pool_name(CARD): margins for name, margins in seen.items()}
    return Site(HostMemory(16 * GIB, 12 * GIB), Threads(4, 4, ""), (CARD,), seen=known)


def test_the_reserves_of_a_machine_follow_what_was_seen_there() -> None:
    assert site().reserve().of_device("CUDA0") == DEVICE_RESERVE
    assert site(card=(Margin(GIB, GIB + 9),)).reserve().of_device("CUDA0") == DEVICE_RESERVE + 9
    assert site(card=(Margin(GIB, GIB),) * 5).reserve().of_device("CUDA0") == DEVICE_RESERVE // 2
    assert site(host=(Margin(GIB, GIB + 7),)).reserve().host == host_reserve(16 * GIB) + 7


def test_what_the_user_set_is_not_changed() -> None:
    wished = site(host=(Margin(0, GIB),), card=(Margin(0, GIB),)).reserve(5, 6)
    assert (wished.host, wished.of_device("CUDA0")) == (5, 6)


def test_a_run_leaves_what_it_took_and_how_fast_it_was(llmrun: Run, tmp_path: Path) -> None:
    """guide is asked a question long enough to tell its speed."""
    done = llmrun("run", "guide", " ".join(["memory"] * 300), "-n", "4", "-t", "1")
    assert done.returncode == 0
    (kept,) = tmp_path.rglob("margins.jsonl")
    (line,) = kept.read_text().splitlines()
    found = json.loads(line)
    assert found["pool"] == "host"
    assert 0 < found["actual"] <= found["planned"] + 16 * MIB
    (runs,) = tmp_path.rglob("*.runs")
    assert len(runs.read_text().splitlines()) == 1


# ---- the watch


def test_a_lack_of_memory_is_told_once() -> None:
    available = [3 * GIB, GIB - 1, 0]
    watch = MemoryWatch(GIB, lambda: available.pop(0))
    assert watch.look() is None
    assert watch.look() == (
        "only 1.0 GiB of RAM is left, less than the reserve of 1.0 GiB: close other programs before the system "
        "closes this one"
    )
    assert watch.look() is None
    assert available == [0]
