"""Never out of memory, under real pressure: some cases of `scripts/bench pressure`, on small models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from scripts.architectures.shapes import small
from scripts.architectures.write import write
from scripts.benchmarks.pressure import Case, can_be_run, draw, judge

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def groups() -> None:
    """Skips where no control group can be made."""
    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    for reason in can_be_run():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, Path], ...]:
    """guide, and a small model of another shape."""
    other = write(tmp_path_factory.mktemp("pressure") / "qwen3-small-Q8_0.gguf", small("qwen3-0.6b"), "Q8_0")
    return (("guide Q8_0", embedded_file("Q8_0")), ("guide F16", embedded_file("F16")), ("qwen3-0.6b small", other))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1000, 1008))
def test_a_run_in_a_small_group_answers_or_refuses_rightly(number: int, models: tuple[tuple[str, Path], ...]) -> None:
    case = draw(number, models)
    found = judge(replace(case, n_ctx=None if case.n_ctx is None else min(case.n_ctx, 16384)))
    assert not found.verdict.startswith("FAILED"), found


@pytest.mark.slow
def test_what_is_too_much_for_a_group_is_refused_and_what_is_not_answers() -> None:
    """The same question with 100 MiB and with 400."""
    few, many = (
        judge(Case("guide", embedded_file("Q8_0"), 32768, "f16", size * MIB)).verdict.split(":")[0]
        for size in (100, 400)
    )
    assert (few, many) == ("refused", "answered")
