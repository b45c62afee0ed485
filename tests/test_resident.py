"""What the operating system says a loaded model takes, beside the plan."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from llmrun.hardware.resident import Resident, parse_smaps_rollup
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.memory.overhead import host_overhead
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import write
from scripts.measuring.system import SLACK, compare, load_modes, plan_holds
from tests.conftest import ONE_THREAD

MIB = 1 << 20
ON_THE_HOST = replace(ONE_THREAD, devices=())
linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process's own resident memory from pages of files exactly"
)


def test_smaps_rollup_is_read_as_own_memory_and_pages_of_files() -> None:
    captured = (
        "5573a0e2c000-7fff3d3f1000 ---p 00000000 00:00 0                          [rollup]\n"
        "Rss:               45788 kB\nPss:               32133 kB\nPss_Anon:          24208 kB\n"
        "Shared_Clean:      18120 kB\nPrivate_Dirty:     24208 kB\nAnonymous:         24204 kB\n"
        "LazyFree:              0 kB\nAnonHugePages:         0 kB\nLocked:                0 kB\n"
    )
    assert parse_smaps_rollup(captured) == Resident(24204 << 10, (45788 - 24204) << 10)


PLAN = MemoryBreakdown(weights=800 * MIB, kv_cache=100 * MIB, compute=40 * MIB, overhead=60 * MIB, mapped=700 * MIB)


@pytest.mark.parametrize(
    ("anonymous", "mapped", "holds"),
    [
        (300 * MIB + SLACK, 700 * MIB + SLACK, True),
        (260 * MIB - SLACK, 700 * MIB - SLACK, True),
        (300 * MIB + SLACK + 1, 700 * MIB, False),
        (260 * MIB - SLACK - 1, 700 * MIB, False),
        (300 * MIB, 700 * MIB + SLACK + 1, False),
        (300 * MIB, 700 * MIB - SLACK - 1, False),
    ],
)
def test_a_plan_may_be_off_by_16_mib_and_only_compute_may_be_missing(anonymous: int, mapped: int, holds: bool) -> None:
    assert plan_holds(Resident(anonymous, mapped), PLAN) is holds


def test_overhead_grows_with_vocabulary_context_threads_and_tensors() -> None:
    base = host_overhead(0, 0, 0, 1, 0)
    more = [(1000, 0, 0, 1, 0), (0, 1000, 0, 1, 0), (0, 0, 1000, 1, 0), (0, 0, 0, 2, 0), (0, 0, 0, 1, 10)]
    grown = [host_overhead(*numbers) for numbers in more]
    assert [found.total - base.total for found in grown] == [163_000, 118_000, 260_000, 528 << 10, 90 << 10]
    assert {found.mapped for found in grown} == {base.mapped}


@linux_only
@pytest.mark.parametrize(
    "settings", load_modes(ON_THE_HOST), ids=lambda settings: f"{settings.load_mode}-{settings.repack}"
)
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0"])
def test_the_embedded_model_takes_what_the_plan_says(quant: str, settings: RunSettings) -> None:
    result = compare(embedded_file(quant), settings)
    assert result.n_tokens > 2000  # of 2048
    assert result.arithmetic is not None
    assert plan_holds(result.found, result.exact), result
    assert plan_holds(result.found, result.arithmetic), result


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.6 billion random weights and a vocabulary of 151,936 tokens with merges."""
    return write(tmp_path_factory.mktemp("resident") / "qwen3-0.6b.gguf", MODELS["qwen3-0.6b"], "Q4_K_M")


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    load_modes(replace(ON_THE_HOST, n_ctx=512)),
    ids=lambda settings: f"{settings.load_mode}-{settings.repack}",
)
def test_a_large_model_takes_what_the_plan_says(large_model: Path, settings: RunSettings) -> None:
    result = compare(large_model, settings)
    assert result.n_tokens > 500
    assert result.arithmetic is not None
    assert plan_holds(result.found, result.exact), result
    assert plan_holds(result.found, result.arithmetic), result
