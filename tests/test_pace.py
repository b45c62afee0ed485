"""How long a step may be: those who write are not held up by long prompts, and share with many who wait."""

import pytest

from llmrun.worker.pace import Pace
from llmrun.worker.share import share

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
    assert pace_of(1.0).room(3, [100] * 7) == 65  # and one, see the tile
    assert pace_of(1.0).room(7, [100]) == 32


@pytest.mark.parametrize("n_waiting", [1, 8, 64])
def test_no_step_is_longer_than_where_nobody_writes(n_waiting: int) -> None:
    for seconds in (0.1, 1.0, 3.0):
        assert pace_of(seconds).room(1, [10] * n_waiting) <= pace_of(seconds).room(0)


def test_what_is_very_slow_still_reads_a_little() -> None:
    assert pace_of(1000.0).room(1, [100]) == 8


def test_the_end_of_a_prompt_says_nothing_of_a_full_step() -> None:
    pace = pace_of(0.5)
    assert pace.room(0, [16]) == ROWS
    pace.took(0, 16, 0.2)
    assert pace.room(0, [512]) == ROWS
    pace.took(0, 16, 1.6)  # but where even that takes long, it does
    assert pace.room(0, [512]) == 64


# seconds of a step by its tokens: behind 3,072 tokens, and behind none (0.6B Q4_K_M, two cores of a Xeon)
FAR = {8: 0.325, 16: 0.546, 32: 0.969, 64: 0.606, 128: 1.183}
NEAR = {8: 0.052, 16: 0.066, 32: 0.092, 64: 0.170, 128: 0.308}


def steps_beside_one(seconds: dict[int, float], pace: Pace, n: int) -> list[int]:
    """The steps of a long prompt beside one who writes."""
    steps = []
    for _ in range(n):
        steps.append(pace.room(1, [4000]))
        pace.took(1, steps[-1], min((abs(size - steps[-1]), taken) for size, taken in seconds.items())[1])
    return steps


def test_a_step_is_no_shorter_than_flash_attentions_tile_where_that_takes_nearly_as_long() -> None:
    pace = Pace(ROWS, is_large=False)
    assert set(steps_beside_one(NEAR, pace, 10)[2:]) == {65}
    far = steps_beside_one(FAR, pace, 20)
    assert set(far[-10:]) == {65}  # after each shorter one was tried
    assert set(steps_beside_one(NEAR, pace, 10)[-5:]) == {65}


def test_what_is_written_fills_the_tile_where_all_share_a_cache() -> None:
    pace = Pace(ROWS, is_large=False, is_unified=True)
    pace.took(0, ROWS, 0.4)
    assert pace.room(2, [4000]) == 62


def test_many_who_write_do_not_leave_a_prompt_one_token_a_step() -> None:
    pace = Pace(512, is_large=False, is_unified=True)
    pace.took(0, 512, 1.6)
    assert pace.room(100, [4000]) == 28  # with what is written two tiles


def test_the_slow_end_of_a_prompt_is_not_taken_for_a_full_step() -> None:
    pace = Pace(ROWS, is_large=False)
    pace.took(0, ROWS, 0.4)
    assert pace.room(1, [4000]) == 65
    pace.took(1, 8, 1.2)
    assert pace.room(1, [4000]) == 8  # what 64 take is not known, so fewer are tried


def test_where_time_grows_with_tokens_steps_stay_short() -> None:
    pace = Pace(ROWS, is_large=False)
    steps = steps_beside_one({n: 0.015 * n for n in FAR}, pace, 20)
    assert set(steps[2:]) == {16}


def test_room_is_divided_in_portions_but_a_tile_is_not() -> None:
    assert share(128, [4000, 100, 100]) == [64, 64, 0]
    assert share(128, [10, 4000]) == [10, 118]
    assert share(65, [4000, 100]) == [65, 0]
    assert share(65, [10, 100]) == [10, 55]
