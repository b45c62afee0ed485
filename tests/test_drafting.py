"""worker.drafting: guesses from what was said before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmrun.worker.drafting import LEAST_MATCH, MOST_MATCH, Draft, NgramDrafter

TOKENS = st.lists(st.integers(-2, 4), min_size=1, max_size=60)  # few kinds, so that much repeats itself


def drafted(tokens: list[int], n_most: int) -> Draft | None:
    return NgramDrafter().draft(tokens[:-1], tokens[-1], n_most)


def n_alike(tokens: list[int], end: int) -> int:
    """How many tokens up to one at `end`, itself among them, are the last ones too."""
    n = 0
    while n <= end and tokens[end - n] == tokens[-1 - n]:
        n += 1
    return min(n, MOST_MATCH)


def searched(tokens: list[int], n_most: int) -> Draft | None:
    """The same, place by place."""
    places = [(n_alike(tokens, end), end) for end in range(len(tokens) - 1)]
    best, end = max(places, default=(0, 0))
    if best < LEAST_MATCH:
        return None
    ahead = list(tokens)
    for index in range(n_most):
        ahead.append(ahead[end + 1 + index])
    found = ahead[len(tokens) :]
    cut = next((index for index, token in enumerate(found) if token < 0), len(found))
    return Draft(tuple(found[:cut]), best) if cut else None


def test_what_followed_the_same_words_is_guessed() -> None:
    assert drafted([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == Draft((4, 5), 3)


def test_of_equal_places_the_latest_is_taken_and_a_longer_likeness_before_it() -> None:
    assert drafted([1, 2, 3, 0, 1, 2, 4, 0, 0, 1, 2], 1) == Draft((4,), 3)
    assert drafted([7, 1, 2, 3, 0, 1, 2, 4, 9, 7, 1, 2], 1) == Draft((3,), 3)


def test_what_repeats_itself_goes_on_so() -> None:
    assert drafted([8, 1, 2, 1, 2], 5) == Draft((1, 2, 1, 2, 1), 2)


def test_one_word_alone_is_no_reason_to_guess() -> None:
    assert drafted([1, 2, 3, 4, 1], 4) is None
    assert drafted([5], 4) is None


@given(TOKENS, st.integers(1, 8))
def test_the_search_finds_what_looking_everywhere_finds(tokens: list[int], n_most: int) -> None:
    assert drafted(tokens, n_most) == searched(tokens, n_most)


@given(TOKENS, st.lists(st.integers(1, 9), max_size=12))
def test_a_drafter_that_grows_with_the_answer_guesses_as_a_new_one(tokens: list[int], steps: list[int]) -> None:
    """Whatever was guessed in between, and however many tokens came at once."""
    drafter, n = NgramDrafter(), 0
    for step in steps:
        n = min(n + step, len(tokens))
        assert drafter.draft(tokens[: n - 1], tokens[n - 1], 4) == drafted(tokens[:n], 4)


def test_a_long_conversation_is_known_to_its_first_word() -> None:
    tokens = [1, 2, 3, *range(10, 5010), 1, 2]
    drafter = NgramDrafter()
    assert drafter.draft(tokens[:500], tokens[500], 4) is None
    assert drafter.draft(tokens[:-1], tokens[-1], 2) == Draft((3, 10), 2)
