"""worker.governor: guesses only where they pay, learned from steps of machines that are made up here."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.worker.drafting import MODEL_STRENGTH
from llmrun.worker.governor import Governor

N_MOST = 7


@dataclass
class Machine:
    """What a step with n guesses takes, in plain steps, each up to `noise` longer; a search takes search steps."""

    costs: tuple[float, ...]
    noise: float = 0.0
    search: float = 0.0005
    seconds: float = 0.03

    def step(self, n: int, rng: random.Random) -> float:
        return self.seconds * self.costs[n] * (1 + self.noise * rng.random())


# Measured with llama-bench, 0.6B Q4_K_M, two cores of an EPYC with AVX2: 29, 50, …, 80, …, 112, …, 168 ms
NARROW = Machine((1.0, 1.72, 2.24, 2.76, 3.31, 3.86, 4.83, 5.79), noise=0.1)
# Two cores with AMX, 0.6B Q4_K_M: the first guess is dear, because its matrices are unpacked into tiles, others are not
TILED = Machine((1.0, 1.65, 1.73, 1.81, 1.91, 2.07, 2.24, 2.35), noise=0.1)
WIDE = Machine((1.0, 1.03, 1.05, 1.08, 1.1, 1.13, 1.15, 1.2), noise=0.1)  # as a GPU is
LINEAR = Machine(tuple(1.0 + n for n in range(N_MOST + 1)), noise=0.1)


@dataclass
class Written:
    """What came of an answer: how many times as fast as plain steps it was, and guesses a step, toward its end."""

    gain: float
    guessed: float


def write(governor: Governor, machine: Machine, chance: float, n_tokens: int, seed: int = 0) -> Written:
    """Write an answer for which there is always a guess, right with a chance, as worker.speculation does."""
    rng = random.Random(seed)
    seconds, done, guessed = 0.0, 0, []
    watched = None
    while done < n_tokens:
        n = 0
        if governor.may_search():
            seconds += machine.search * machine.seconds
            governor.spent(machine.search * machine.seconds)
            n = governor.choose(N_MOST, 3)
        if n:
            watched = None
        elif watched is None:
            watched = 0
        n_right = next((i for i in range(n) if rng.random() >= chance), n)
        taken = machine.step(n, rng)
        governor.took(n, n_right, taken)
        if n:
            governor.saw(3, n_right, wrong=n_right < n)
        elif rng.random() < chance and watched is not None and watched + 1 < N_MOST:
            watched += 1
        elif watched is not None:
            governor.saw(3, watched, wrong=True)
            watched = None
        seconds, done = seconds + taken, done + 1 + n_right
        guessed.append(n)
    plain = sum(machine.step(0, rng) for _ in range(done))
    late = guessed[len(guessed) // 2 :]
    return Written(plain / seconds, sum(late) / len(late))


def best_gain(machine: Machine, chance: float) -> float:
    """What whoever knew all of it beforehand would gain."""
    tokens = [sum(chance**i for i in range(n + 1)) for n in range(N_MOST + 1)]
    return max(brought / cost for brought, cost in zip(tokens, machine.costs, strict=True))


@pytest.mark.parametrize("machine", [NARROW, TILED, WIDE, LINEAR], ids=["narrow", "tiled", "wide", "linear"])
@pytest.mark.parametrize("n_tokens", [64, 400])
@pytest.mark.parametrize("seed", range(5))
def test_guesses_that_are_never_right_cost_less_than_three_percent(machine: Machine, n_tokens: int, seed: int) -> None:
    """In the very first answer too; nothing at all, where guesses cost nothing before they are verified."""
    assert write(Governor(N_MOST), machine, 0.0, n_tokens, seed).gain >= 0.985


@pytest.mark.parametrize("chance", [0.3, 0.6, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("machine", [NARROW, TILED, WIDE, LINEAR], ids=["narrow", "tiled", "wide", "linear"])
def test_most_of_what_could_be_gained_is_gained(machine: Machine, chance: float) -> None:
    governor = Governor(N_MOST)
    gain = write(governor, machine, chance, 1000).gain
    assert gain >= 1 + 0.8 * (best_gain(machine, chance) - 1) - 0.1


def test_where_batches_are_cheap_two_thirds_right_are_a_third_faster() -> None:
    cheap = Machine((1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8, 3.1))  # four tokens cost less than two steps
    assert write(Governor(N_MOST), cheap, 0.6, 1000).gain >= 1.1
    assert write(Governor(N_MOST), WIDE, 0.6, 1000).gain >= 1.3


def test_where_only_the_first_guess_is_dear_more_of_them_are_tried() -> None:
    """In short answers already, and though one guess alone does not pay."""
    gains = []
    for seed in range(20):
        governor = Governor(N_MOST)
        gains += [write(governor, TILED, 0.6, 64, 100 * seed + answer).gain for answer in range(6)]
    assert (1 + 0.6) / TILED.costs[1] < 1.0
    assert sum(gains) / len(gains) >= 1.1


def test_where_each_guess_costs_a_step_none_is_made() -> None:
    assert write(Governor(N_MOST), LINEAR, 0.9, 500).guessed < 0.05


@dataclass
class Disturbed(Machine):
    """One whose first steps with guesses, so many, take as long as many plain ones: something else ran."""

    n_left: int = 1

    def step(self, n: int, rng: random.Random) -> float:
        seconds = Machine.step(self, n, rng)
        if n and self.n_left:
            self.n_left -= 1
            return 20 * seconds
        return seconds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_disturbed", [1, 2])
@pytest.mark.parametrize("costs", [NARROW.costs, WIDE.costs], ids=["narrow", "wide"])
def test_steps_that_were_disturbed_do_not_decide(costs: tuple[float, ...], n_disturbed: int, seed: int) -> None:
    governor = Governor(N_MOST)
    write(governor, Disturbed(costs, noise=0.1, n_left=n_disturbed), 0.9, 200, seed)
    gain = write(governor, Machine(costs, noise=0.1), 0.9, 1000, seed + 1).gain
    assert gain >= 1 + 0.8 * (best_gain(Machine(costs), 0.9) - 1) - 0.1


def test_what_steps_took_does_not_hold_for_ever() -> None:
    governor = Governor(N_MOST)
    assert write(governor, LINEAR, 0.9, 1000).guessed < 0.05
    assert write(governor, WIDE, 0.9, 3000, seed=1).gain > 2


def test_nothing_is_guessed_before_a_plain_step_was_seen() -> None:
    governor = Governor(N_MOST)
    assert not governor.may_search()
    assert governor.choose(N_MOST, 3) == 0
    governor.took(0, 0, 0.03)
    assert governor.may_search()


def test_off_is_off() -> None:
    governor = Governor(0)
    governor.took(0, 0, 0.03)
    assert not governor.may_search()
    assert governor.choose(5, 3) == 0


def test_a_conversation_that_turns_can_lose_little_and_win_again() -> None:
    governor = Governor(N_MOST)
    assert write(governor, WIDE, 0.9, 500).gain > 2
    assert write(governor, NARROW, 0.0, 500).gain >= 0.97
    assert write(governor, NARROW, 0.0, 500).gain >= 0.97
    assert write(governor, WIDE, 0.9, 1000, seed=1).gain > 1.7


def test_kinds_of_guesses_are_told_apart() -> None:
    """Those that are right are verified, though as many of the others are wrong."""
    governor = Governor(N_MOST)
    governor.took(0, 0, 0.03)
    for _ in range(40):
        governor.saw(2, 0, wrong=True)
        governor.saw(7, 7, wrong=False)
        governor.took(0, 0, 0.03)
    assert governor.choose(N_MOST, 2) == 0
    assert governor.choose(N_MOST, 7) > 0
    assert governor.choose(2, 7) <= 2


@given(
    increments=st.lists(st.floats(0, 1.5), min_size=N_MOST, max_size=N_MOST),
    chances=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_on_no_machine_and_for_no_text_is_more_lost_than_the_account_holds(
    increments: list[float], chances: list[float], seed: int
) -> None:
    """However the text turns: four steps, that by which one can be wrong, and a hundredth of the time."""
    costs = [1.0]
    for more in increments:
        costs.append(costs[-1] + more)
    assert all(a <= b for a, b in pairwise(costs))
    machine, governor = Machine(tuple(costs)), Governor(N_MOST)
    n_tokens = 60 * len(chances)
    lost = sum(60 / write(governor, machine, chance, 60, seed).gain - 60 for chance in chances)
    assert lost <= 4 + costs[-1] + 0.015 * n_tokens


# ---- with a draft model, whose guesses have a price


@dataclass
class Drafted:
    """A draft model on a machine: what a guess and reading a token take, in plain steps, and how long prompts are."""

    price: float
    reading: float = 0.0
    n_prompt: int = 0


def write_drafted(
    governor: Governor, machine: Machine, draft: Drafted, chance: float, n_tokens: int, seed: int = 0
) -> Written:
    """Write an answer with guesses of a model that are right with a chance, as worker.speculation does."""
    rng, plain, strength = random.Random(seed), machine.seconds, MODEL_STRENGTH + 3
    seconds, done, guessed = 0.0, 0, []
    missing, watched = draft.n_prompt, list[bool]()
    while done < n_tokens:
        n = 0
        if asked := governor.ask(N_MOST, 1.0, may_try=not watched):
            n_read = min(missing, governor.n_readable())
            if missing and n_read:
                seconds, missing = seconds + draft.reading * n_read * plain, 0
                governor.read(n_read, draft.reading * n_read * plain)
            if not missing:
                spent = draft.price * asked * plain * (1 + machine.noise * rng.random())
                seconds += spent
                governor.paid(asked, spent)
                n = governor.choose(asked, strength)
                if n or not watched:
                    watched = [] if n else [rng.random() < chance for _ in range(asked)]
        n_right = next((i for i in range(n) if rng.random() >= chance), n)
        taken = machine.step(n, rng)
        governor.took(n, n_right, taken)
        if n:
            governor.saw(strength, n_right, wrong=n_right < n)
        elif watched:
            n_seen = next((i for i, right in enumerate(watched) if not right), len(watched))
            governor.saw(strength, n_seen, wrong=n_seen < len(watched))
            watched = []
        seconds, done = seconds + taken, done + 1 + n_right
        guessed.append(n)
    late = guessed[len(guessed) // 2 :]
    return Written(sum(machine.step(0, rng) for _ in range(done)) / seconds, sum(late) / len(late))


def best_drafted(machine: Machine, draft: Drafted, chance: float) -> float:
    tokens = [sum(chance**i for i in range(n + 1)) for n in range(N_MOST + 1)]
    return max(brought / (machine.costs[n] + draft.price * n) for n, brought in enumerate(tokens))


MACHINES = pytest.mark.parametrize("machine", [NARROW, TILED, WIDE, LINEAR], ids=["narrow", "tiled", "wide", "linear"])


@MACHINES
@pytest.mark.parametrize("price", [0.02, 0.1, 0.4, 1.5])
def test_a_draft_model_that_is_never_right_costs_little_once_and_then_a_hundredth(
    machine: Machine, price: float
) -> None:
    governor, draft = Governor(N_MOST), Drafted(price, reading=0.02, n_prompt=500)
    lost = 200 / write_drafted(governor, machine, draft, 0.0, 200).gain - 200
    assert lost <= 4 + machine.costs[3] + 0.02 * 200 + 5  # 5: noise
    assert write_drafted(governor, machine, draft, 0.0, 500).gain >= 0.98


@MACHINES
@pytest.mark.parametrize("chance", [0.5, 0.7, 0.85, 0.95])
@pytest.mark.parametrize("price", [0.03, 0.1, 0.2])
def test_most_of_what_a_draft_model_could_bring_is_brought(machine: Machine, chance: float, price: float) -> None:
    governor, draft = Governor(N_MOST), Drafted(price, reading=0.01, n_prompt=500)
    write_drafted(governor, machine, draft, chance, 500)
    gain = write_drafted(governor, machine, draft, chance, 1000, seed=1).gain
    assert gain >= 1 + 0.8 * (best_drafted(machine, draft, chance) - 1) - 0.1


def asked_for(machine: Machine, price: float, chance: float) -> int:
    """How many guesses a draft model is asked for, once it is known."""
    governor = Governor(N_MOST)
    write_drafted(governor, machine, Drafted(price), chance, 1500)
    governor.took(0, 0, machine.seconds)
    return governor.ask(N_MOST, 1.0, may_try=False)


def test_dear_guesses_are_asked_for_in_smaller_numbers_and_the_dearest_not_at_all() -> None:
    cheap, dear, dearest = (asked_for(WIDE, price, 0.8) for price in (0.01, 0.25, 1.0))
    assert cheap > dear > dearest == 0


def test_what_is_guessed_for_nothing_goes_first_unless_the_model_promises_more() -> None:
    governor = Governor(N_MOST)
    write_drafted(governor, WIDE, Drafted(0.1), 0.9, 500)
    governor.took(0, 0, WIDE.seconds)
    assert governor.ask(N_MOST, 1.1) > 0
    assert governor.ask(N_MOST, 6.0, may_try=False) == 0


def test_guesses_of_the_conversation_are_tried_though_the_models_never_pay() -> None:
    """What a draft model is tried with leaves something in the account."""
    governor = Governor(N_MOST)
    write_drafted(governor, NARROW, Drafted(0.3, 0.02, 300), 0.0, 2000)
    governor.took(0, 0, NARROW.seconds)
    for _ in range(40):
        governor.saw(7, 7, wrong=False)
    assert governor.choose(N_MOST, 7) > 0


def test_a_draft_model_reads_no_more_than_half_of_what_may_be_lost() -> None:
    governor = Governor(N_MOST)
    assert governor.n_readable() == 0
    governor.took(0, 0, 1.0)
    first = governor.n_readable()
    assert 0 < first < 100
    governor.read(first, first * 0.01)
    assert governor.n_readable() * 0.01 <= (4 - first * 0.01) / 2
    for _ in range(1000):
        governor.took(0, 0, 1.0)  # what the account cannot hold is saved
    assert 300 < governor.n_readable() <= (4 + 10) / 2 / 0.01


@given(
    increments=st.lists(st.floats(0, 1.5), min_size=N_MOST, max_size=N_MOST),
    price=st.floats(0.005, 1.5),
    reading=st.floats(0, 0.05),
    chances=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_with_no_draft_model_and_for_no_text_is_more_lost_than_the_account_holds(
    increments: list[float], price: float, reading: float, chances: list[float], seed: int
) -> None:
    """Whatever it costs: the credit, that by which one step can be wrong, and a hundredth of the time."""
    costs = [1.0]
    for more in increments:
        costs.append(costs[-1] + more)
    machine, governor = Machine(tuple(costs)), Governor(N_MOST)
    draft = Drafted(price, reading, n_prompt=400)
    lost = sum(60 / write_drafted(governor, machine, draft, chance, 60, seed).gain - 60 for chance in chances)
    assert lost <= 4 + costs[-1] + N_MOST * price + 64 * reading + 0.015 * 60 * len(chances)
