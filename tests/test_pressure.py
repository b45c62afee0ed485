"""Never out of memory, under real pressure: some cases of `scripts/bench pressure`, on small models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from scripts.architectures.shapes import small
from scripts.architectures.write import write
from scripts.benchmarks.groups import Ended
from scripts.benchmarks.pressure import Case, can_be_run, draw, judge

MIB = 1 << 20


@pytest.fixture(scope="module")
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
@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("number", range(1000, 1008))
def test_a_run_in_a_small_group_answers_or_refuses_rightly(number: int, models: tuple[tuple[str, Path], ...]) -> None:
    case = draw(number, models)
    found = judge(replace(case, n_ctx=None if case.n_ctx is None else min(case.n_ctx, 16384)))
    assert not found.verdict.startswith("FAILED"), found


@pytest.mark.slow
@pytest.mark.usefixtures("groups")
def test_what_is_too_much_for_a_group_is_refused_and_what_is_not_answers() -> None:
    """The same question with 100 MiB and with 400."""
    few, many = (
        judge(Case("guide", embedded_file("Q8_0"), 32768, "f16", size * MIB)).verdict.split(":")[0]
        for size in (100, 400)
    )
    assert (few, many) == ("refused", "answered")


# ---- the judge itself

CASE = Case("m", Path("m.gguf"), 2048, None, 400 * MIB)
ROOM = CASE.limit - 64 * MIB


def refused(needed: int, free: int, peak: int = 60) -> Ended:
    """A refusal in the program's words; MiB."""
    told = f"Q8_0 needs {needed} MiB of RAM at 2,048 tokens with a KV cache of q4_0, and {free} MiB is free beside the"
    return Ended(3, "", f"error: it does not fit: {told} reserve", 1.0, peak * MIB, 0)


def verdict(ended: Ended, least: int = 1 << 40) -> str:
    """What is said of a run that ended so, where the least that the flags allow takes so many bytes."""
    found = judge(CASE, lambda case: ended if case is CASE else Ended(0, "yes", "", 1.0, least, 0))
    return " ".join(found.verdict.split()[:3])


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(0, "yes", "", 1.0, MIB, 0), "answered"),
        (Ended(0, "yes", "", 1.0, MIB, 1), "FAILED: killed: it"),
        (Ended(0, "", "", 1.0, MIB, 0), "FAILED: ended with"),
        (Ended(None, "", "", 1.0, MIB, 0), "FAILED: hung: it"),
        (Ended(7, "", "error: it broke", 1.0, MIB, 0), "FAILED: ended with"),
        (Ended(3, "", "error: no room", 1.0, MIB, 0), "FAILED: refused without"),
        (refused(900, 300), "refused: needs 900"),
        (refused(900, 200), "FAILED: wrong numbers:"),
        (refused(900, 400), "FAILED: wrong numbers:"),
        (refused(200, 300), "FAILED: wrong numbers:"),
        (refused(900, 300, peak=200), "FAILED: refused after"),
    ],
)
def test_what_is_neither_an_answer_nor_a_right_refusal_fails(ended: Ended, said: str) -> None:
    assert verdict(ended) == said


def test_a_refusal_of_what_fits_with_a_tenth_to_spare_fails() -> None:
    """Beside libraries of 24 MiB."""
    most = ROOM * 9 // 10 - 24 * MIB
    assert verdict(refused(900, 300), least=most) == "FAILED: refused, and"
    assert verdict(refused(900, 300), least=most + MIB) == "refused: needs 900"
