"""How long a step may be: those who write are not held up by long prompts, and share with many who wait."""

import pytest

from llmrun.worker.pace import Pace

ROWS = 128


def pace_of(seconds: float) -> Pace:
    """A pace that read a full step in so many seconds, and writes in no time."""
    pace = Pace(ROWS, is_large=False)
    pace.took(0, ROWS, seconds)
    return pace


def test_a_long_prompt_holds_nobody_up() -> None:
    assert pace_of(1.0).room(1, [4000]) == 32
    assert pace_of(1.0).room(1, [4000] * 7) == 32


def test_many_with_short_prompts_are_not_kept_waiting_by_one_who_writes() -> None:
    assert pace_of(1.0).room(1, [100] * 7) == ROWS - 1
    assert pace_of(1.0).room(3, [100] * 7) == 64
    assert pace_of(1.0).room(7, [100]) == 32


@pytest.mark.parametrize("n_waiting", [1, 8, 64])
def test_no_step_is_longer_than_where_nobody_writes(n_waiting: int) -> None:
    for seconds in (0.1, 1.0, 3.0):
        assert pace_of(seconds).room(1, [10] * n_waiting) <= pace_of(seconds).room(0)


def test_what_is_very_slow_still_reads_a_little() -> None:
    assert pace_of(1000.0).room(1, [100]) == 8
