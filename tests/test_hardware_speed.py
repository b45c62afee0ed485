"""`llmrun hardware` on speed: shown once it was measured, and measured only on request."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmrun.cli.hardware import Survey, hardware_figures, hardware_text
from llmrun.engine.protocol import DeviceList, Measure
from llmrun.hardware.fingerprint import read_fingerprint
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.threads import usual_threads
from llmrun.measurements import Measurements
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, MatrixCost, Needs, Rates
from llmrun.settings import RunSettings
from llmrun.speeds import Throughput
from tests.doctor_machines import HOST

Program = Callable[..., subprocess.CompletedProcess[str]]
MEASURED = Throughput(10 * 2.0**30, 0.1, "Q8_0", 52.2e9, "Q4_K", 1, 2)


def rows(throughput: Throughput) -> list[str]:
    lines = hardware_text(Survey(Hardware(HOST), DeviceList(()), None, throughput)).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("bandwidth"))
    return lines[first : next(index for index, line in enumerate(lines) if line.startswith("devices"))]


def test_what_was_measured_is_shown_with_its_spread() -> None:
    assert rows(MEASURED) == [
        "bandwidth     10.0 GiB of weights a second ± 5%, with 1 thread and Q8_0",
        "computing     52.2 billion multiply-adds a second, with 2 threads and Q4_K",
    ]
    figures = hardware_figures(Survey(Hardware(HOST), DeviceList(()), None, MEASURED))
    assert (figures["bandwidth"], figures["bandwidth_spread"], figures["multiply_adds"]) == (10 * 2.0**30, 0.1, 52.2e9)


def test_an_unsteady_measurement_says_so() -> None:
    unsteady = Throughput(10 * 2.0**30, 0.9, "Q8_0", 52.2e9, "Q4_K", 2, 2)
    assert rows(unsteady)[1] == "              unsteady: `llmrun hardware --remeasure` when nothing else runs"
    assert all(len(line) <= 80 for line in rows(unsteady))


@pytest.fixture
def measured_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which this machine was measured with the threads it uses while nothing else runs."""
    import platformdirs

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "speed"
    matrices = dict.fromkeys(("Q8_0", "Q4_K"), MatrixCost(*[Cost(1e-10, 0.2)] * 5))
    found = Rates(BaseCosts(*[Cost(1e-6)] * 3), matrices, {}, {"f16": AttentionCost(*[Cost(1e-10)] * 3)})

    def answer(_: Measure) -> Rates:
        return found

    threads = usual_threads()
    settings = RunSettings(n_threads=threads.decode, n_threads_batch=threads.batch)
    Measurements(answer, read_fingerprint(), folder).rates(Needs(frozenset(matrices)), settings)
    return tmp_path


def test_what_was_measured_once_is_remembered(measured_home: Path, llmrun: Program) -> None:
    told = json.loads(llmrun("hardware", "--json").stdout)
    assert (told["bandwidth"], told["bandwidth_spread"], told["multiply_adds"]) == pytest.approx((1e10, 0.2, 1e10))
    assert "9.3 GiB of weights a second ± 10%" in llmrun("hardware").stdout


def test_what_is_known_is_not_measured_again(measured_home: Path, llmrun: Program) -> None:
    assert json.loads(llmrun("hardware", "--measure", "--json").stdout)["bandwidth"] == pytest.approx(1e10)


@pytest.fixture
def one_core() -> Iterator[None]:
    """One core for what is started: how many threads are useful would else change with how busy the others are."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_core")
def test_on_request_this_machine_is_really_measured(llmrun: Program) -> None:
    done = llmrun("hardware", "--measure", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(told[name] > 0 for name in ("bandwidth", "multiply_adds"))
    assert json.loads(llmrun("hardware", "--json").stdout)["bandwidth"] == told["bandwidth"]
