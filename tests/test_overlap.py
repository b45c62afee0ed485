"""worker.overlap: what of the last prompt stands elsewhere in the next one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.worker.overlap import LEAST, Move, common_prefix, find_moves, least_stretch

SYSTEM, FIRST, SECOND, NEW = (tuple(range(n, n + 100)) for n in (1000, 2000, 3000, 4000))
# few tokens, so that stretches come again and again
TOKENS = st.lists(st.integers(0, 2), max_size=40).map(tuple)


def moved(past: tuple[int, ...], start: int, moves: list[Move]) -> list[int]:
    """What is in a memory after the moves: the tokens at the positions that were kept or moved to."""
    kept = list(past[:start])
    for move in moves:
        assert move.new == len(kept)
        kept += past[move.old : move.old + move.n_tokens]
    return kept


def test_turns_after_the_dropped_ones_move_up() -> None:
    past, prompt = SYSTEM + FIRST + SECOND, SYSTEM + SECOND + NEW
    assert find_moves(past, prompt, 100, LEAST) == [Move(200, 100, 100)]


def test_a_stretch_that_became_other_tokens_is_bridged_by_nothing() -> None:
    """What follows a change is at another distance, and only what goes on with the prompt can be used."""
    past, prompt = SYSTEM + FIRST + SECOND, SYSTEM + NEW + SECOND
    assert find_moves(past, prompt, 100, LEAST) == []


def test_what_was_dropped_in_two_places_is_two_moves() -> None:
    past, prompt = SYSTEM + FIRST + SECOND + FIRST[:50] + NEW, SYSTEM + SECOND + NEW
    assert find_moves(past, prompt, 100, LEAST) == [Move(200, 100, 100), Move(350, 200, 100)]


def test_the_longest_of_several_stretches_is_taken() -> None:
    past = SYSTEM + FIRST + SECOND[:70] + FIRST + SECOND
    assert find_moves(past, SYSTEM + SECOND, 100, LEAST) == [Move(370, 100, 100)]


@pytest.mark.parametrize("length", [LEAST - 1, LEAST])
def test_a_short_stretch_is_read_again(length: int) -> None:
    past, prompt = SYSTEM + FIRST + SECOND[:length], SYSTEM + SECOND[:length] + NEW
    assert bool(find_moves(past, prompt, 100, LEAST)) == (length == LEAST)


@pytest.mark.parametrize(("n_ctx", "least"), [(512, 64), (2048, 64), (8192, 256), (131_072, 4096)])
def test_a_large_context_is_rotated_for_many_tokens_only(n_ctx: int, least: int) -> None:
    assert least_stretch(n_ctx) == least


@given(TOKENS, TOKENS, st.integers(1, 6))
def test_moves_make_a_beginning_of_the_prompt(past: tuple[int, ...], prompt: tuple[int, ...], least: int) -> None:
    start = common_prefix(past, prompt)
    moves = find_moves(past, prompt, start, least)
    kept = moved(past, start, moves)
    assert kept == list(prompt[: len(kept)])
    assert all(move.new < move.old and move.n_tokens >= least for move in moves)
    ends = [move.old + move.n_tokens for move in moves]
    assert all(end <= move.old for end, move in zip(ends, moves[1:], strict=False)), "a token is moved once"


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 6))
def test_a_dropped_middle_is_found(
    head: tuple[int, ...], dropped: tuple[int, ...], tail: tuple[int, ...], least: int
) -> None:
    """As much of the prompt is kept as the longest single stretch would give."""
    past, prompt = head + dropped + tail, head + tail
    start = common_prefix(past, prompt)
    kept = moved(past, start, find_moves(past, prompt, start, least))
    rest = prompt[start:]
    found = max((common_prefix(past[at:], rest) for at in range(start, len(past))), default=0)
    assert len(kept) >= start + (found if found >= least else 0)
