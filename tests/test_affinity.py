"""hardware.affinity, worker.affinity: where threads run, understood from files, seen of the engine's, and tuned."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.tuning import tune_figures, tune_text
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.hardware.affinity import (
    core_places,
    node_places,
    parse_nodes,
    read_affinities,
    read_node_files,
    read_places,
)
from llmrun.hardware.cores import Core, read_allowed
from llmrun.pipeline import Listener
from llmrun.planning.timing import Timing, Way
from llmrun.planning.tuning import FEWEST_TURNS
from llmrun.reference import LocalRef
from llmrun.settings import Constraints, RunSettings
from llmrun.tuning import open_subject, tune
from llmrun.worker.affinity import computing_threads
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.llama import Context, Model, load_model, start_backend
from tests.conftest import ask, figures
from tests.hardware_trees import plant

SETTINGS = RunSettings(n_ctx=512, n_threads=2, n_threads_batch=2, devices=(), n_gpu_layers=0)
ALLOWED = read_allowed() or frozenset()
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are bound on Linux only")
several = pytest.mark.skipif(
    "cores" not in read_affinities(), reason="fewer than two cores may be used, so that there is nothing to bind to"
)


def nodes_at(root: Path, **lists: str) -> Path:
    """A machine whose nodes have these processors."""
    for name, text in lists.items():
        folder = root / "sys/devices/system/node" / name
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text + "\n")
    return root


def cpus(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


# ---- places


def test_nodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = nodes_at(tmp_path, node10="4-5", node2="2,3", node0="0-1,8")
    (root / "sys/devices/system/node/possible").write_text("0-10\n")
    assert parse_nodes(read_node_files(root)) == (cpus(0, 1, 8), cpus(2, 3), cpus(4, 5))


def test_a_node_that_only_has_memory_has_no_place_for_a_thread(tmp_path: Path) -> None:
    assert parse_nodes(read_node_files(nodes_at(tmp_path, node0="0-3", node1=""))) == (cpus(0, 1, 2, 3),)


def test_a_machine_without_nodes_has_none(tmp_path: Path) -> None:
    assert parse_nodes(read_node_files(tmp_path)) == ()
    assert parse_nodes({"nodes": "0-3", "node": "1"}) == ()


def test_of_a_node_only_the_processors_we_may_use_count() -> None:
    nodes = (cpus(0, 1), cpus(2, 3), cpus(4, 5))
    assert node_places(nodes, {1, 4, 5, 9}) == (cpus(1), cpus(4, 5))
    assert node_places(nodes, {2, 3}) == (), "one place is no choice"


def test_slow_cores_come_last() -> None:
    cores = [Core(cpus(0), performance=False), Core(cpus(1, 2)), Core(cpus(3), performance=False), Core(cpus(4, 5))]
    assert core_places(cores) == (cpus(1, 2), cpus(4, 5), cpus(0), cpus(3))
    assert core_places(cores[:1]) == ()


@given(st.lists(st.sets(st.integers(0, 63)).map(frozenset), max_size=8), st.sets(st.integers(0, 63)))
def test_no_place_is_empty_or_beyond_what_may_be_used(nodes: list[frozenset[int]], allowed: set[int]) -> None:
    places = node_places(nodes, allowed)
    assert len(places) != 1
    assert all(place and place <= allowed for place in places)


@linux
def test_a_machine_tells_what_can_be_bound_to(tmp_path: Path) -> None:
    root = nodes_at(plant(tmp_path, "hybrid"), node0="0-3", node1="4-5")
    assert read_places("free", range(6), root) == ()
    assert read_places("nodes", {0, 4}, root) == (cpus(0), cpus(4))
    cores = read_places("cores", range(64), root)
    assert len(cores) > 1
    assert sum(map(len, cores)) == len(frozenset().union(*cores)), "no two share a processor"
    assert read_places("cores", {0}, root) == ()


# ---- threads


def masks_of(process: str | int = "self") -> Mapping[int, frozenset[int]]:
    """Where each thread of a process may run."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            found[int(task.name)] = frozenset(os.sched_getaffinity(int(task.name)))
        except ProcessLookupError:  # it ended meanwhile
            continue
    return found


def bound(process: str | int = "self") -> list[frozenset[int]]:
    """Where the threads may run that may not run everywhere; those that end are not counted."""
    return sorted((mask for mask in masks_of(process).values() if mask != ALLOWED), key=min)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    start_backend()
    model = load_model(embedded_file("Q8_0"), SETTINGS)
    yield model
    model.close()


@pytest.fixture
def context(model: Model) -> Iterator[Callable[[str], Context]]:
    made: list[Context] = []

    def make(affinity: str) -> Context:
        made.append(Context(model, replace(SETTINGS, affinity=affinity), CancelFlag()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def step(context: Context, n_threads: int, n_tokens: int = 1) -> None:
    """Read a token or several with so many threads."""
    context.set_threads(n_threads, n_threads)
    assert context.decode((5,) * n_tokens, context.n_past(), want_logits=True) == 0


@several
def test_each_thread_that_computes_has_a_core_of_its_own(context: Callable[[str], Context]) -> None:
    first, second, *_ = places = read_places("cores", ALLOWED)
    cores, free = context("cores"), context("free")
    step(free, 2)
    assert bound() == []
    step(cores, 2, 8)
    assert bound() == sorted((first, second), key=min)
    assert masks_of()[os.getpid()] == first, "the thread that calls is number 0"
    step(free, 1)
    assert bound() == [], "of a thread that waits, too"
    step(cores, 2)
    assert bound() == sorted((first, second), key=min)
    cores.close()
    assert bound() == []
    assert computing_threads().places("cores") == places, "what may be used is what it was before"


@several
def test_threads_that_come_back_are_bound_again(context: Callable[[str], Context]) -> None:
    """A team that shrinks ends a thread; those that are made later would stay where the first one is."""
    first, second, *_ = places = read_places("cores", ALLOWED)
    cores = context("cores")
    for n_threads in (1, 2, 1, 3, 2, 3, 1, 2):
        step(cores, n_threads)
        deadline = time.monotonic() + 20
        while len(bound()) > max(2, n_threads) and time.monotonic() < deadline:
            time.sleep(0.01)  # a thread whose team has gone ends when it is its turn
        if n_threads == 3:
            assert bound() == sorted((places * 2)[:3], key=min)
    assert {*bound()} == {first, second}


@linux
def test_nodes_that_there_are_not_bind_nothing(context: Callable[[str], Context]) -> None:
    if "nodes" in read_affinities():
        pytest.skip("this machine has several nodes")
    step(context("nodes"), 2)
    assert bound() == []


@several
def test_the_worker_binds_its_threads_and_answers_the_same(
    start_engine: Callable[..., Engine], guide_file: Path
) -> None:
    question = "what is a token"
    plain = ask(start_engine(guide_file, SETTINGS), question, max_tokens=32)
    engine = start_engine(guide_file, replace(SETTINGS, affinity="cores"))
    assert bound(engine.pid) == []
    assert ask(engine, question, max_tokens=32) == plain != ""
    first, second, *_ = read_places("cores", ALLOWED)
    assert bound(engine.pid) == sorted((first, second), key=min)


@several
def test_the_worker_frees_its_threads_after_ways_were_compared(tiny_model: Path) -> None:
    base = replace(SETTINGS, n_ctx=256)
    with Engine() as engine:
        for together in (True, False):
            ways = [Way(replace(base, affinity=affinity), 32, 4) for affinity in ("free", "cores")]
            timings = engine.compare(tiny_model, ways, 0.1, together=together)
            assert timings is not None
            assert all(timing.read and timing.write for timing in timings)
            assert bound(engine.pid) == []


# ---- tuned


class Scripted(Engine):
    """An engine that says of bound threads that they are twice as fast, and of all else that nothing is."""

    def compare(self, path: Path, ways: Sequence[Way], *_: Any, **__: Any) -> tuple[Timing, ...]:
        times = (0.1 if way.settings.affinity == "cores" else 0.2 for way in ways)
        return tuple(Timing((time,) * FEWEST_TURNS, (time,) * FEWEST_TURNS) for time in times)


def test_threads_are_bound_from_then_on_where_that_was_faster(
    llmrun: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guide_file: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    constraints = Constraints(n_threads=2)
    subject = replace(open_subject(LocalRef(guide_file), constraints, Listener(), offline=True), affinities=("cores",))
    outcome = tune(subject, constraints, 30, lambda *_: None, Scripted)
    assert (outcome.before.affinity, outcome.after) == ("free", replace(outcome.before, affinity="cores"))
    written = json.loads(json.dumps(tune_figures("guide", outcome)))
    told = {choice["setting"]: choice for choice in written["choices"]}
    assert told["affinity"]["default"] == {"value": "free", "speed": pytest.approx(5.0)}
    assert told["affinity"]["chosen"] == {"value": "cores", "speed": pytest.approx(10.0)}
    assert (told["affinity"]["ratio"], told["affinity"]["kept"]) == (pytest.approx(2.0), True)
    assert "thread affinity (512 read, 256 written): cores, 2.00 times as fast" in tune_text("guide", outcome)
    plan = figures(llmrun("plan", "guide", "--threads", "2", "--fast", "--json"))
    assert plan["settings"]["affinity"] == "cores"
    (reason,) = [reason for reason in plan["reasons"] if reason["setting"] == "affinity"]
    assert (reason["cause"], reason["value"]) == ("MEASURED", "cores")
    text = llmrun("plan", "guide", "--threads", "2", "--fast").stdout
    assert "affinity      cores: measured here: answers 2.00 times as fast" in text
