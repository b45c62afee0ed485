"""How many threads compute the next step: on machines that are simulated, where others come and go."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.worker.headcount import Headcount, ladder

GROWTH = 1.0002  # of a step's time from one token to the next, as the context grows


@dataclass(frozen=True)
class Machine:
    """Cores that others may take. serial: the part of a step that more threads do not make shorter, seconds.

    shared: how much longer a step takes where threads have to share cores.
    """

    n_cores: int
    step: float = 0.04
    serial: float = 0.005
    shared: float = 3.0
    noise: float = 0.02

    def seconds(self, n_threads: int, n_busy: int, chance: random.Random, n_past: int = 0) -> float:
        """What a step takes."""
        alone = self.serial + self.step / n_threads
        crowded = n_threads > max(1, self.n_cores - n_busy)
        return alone * (self.shared if crowded else 1.0) * chance.uniform(1, 1 + self.noise) * GROWTH**n_past

    def best(self, n_busy: int) -> float:
        """The shortest step there is, without noise."""
        return min(
            self.serial + self.step / n
            if n <= max(1, self.n_cores - n_busy)
            else (self.serial + self.step / n) * self.shared
            for n in range(1, self.n_cores + 1)
        )


@dataclass
class Run:
    """What came of it: seconds that were computed and could have been, and the threads of each step."""

    seconds: float
    possible: float
    numbers: list[int]

    @property
    def loss(self) -> float:
        return self.seconds / self.possible - 1


def run(headcount: Headcount, machine: Machine, busy: Iterator[int], *, sees: bool, seed: int = 0) -> Run:
    """Let it govern until there is no more `busy`, how many others there are at each step; sees: it is told of them."""
    chance, found, looked = random.Random(seed), Run(0.0, 0.0, []), 0.0
    for n_past, n_busy in enumerate(busy):
        if sees and found.seconds - looked >= 0.12:
            looked = found.seconds
            # who competes for a core gets a part of it only
            crowded = headcount.n_threads + n_busy > machine.n_cores
            headcount.see(machine.n_cores - n_busy * (0.4 if crowded and headcount.n_threads > 1 else 1.0))
        found.numbers.append(headcount.n_threads)
        seconds = machine.seconds(headcount.n_threads, n_busy, chance, n_past)
        headcount.took(seconds)
        found.seconds += seconds
        found.possible += machine.best(n_busy) * GROWTH**n_past * (1 + machine.noise / 2)
    return found


def steps(*parts: tuple[int, int]) -> Iterator[int]:
    """So many steps beside so many others, one part after another."""
    return itertools.chain.from_iterable(itertools.repeat(n_busy, n) for n, n_busy in parts)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 8, 16, 64, 512])
def test_one_and_the_most_are_always_tried(most: int) -> None:
    found = ladder(most)
    assert found[0] == 1
    assert found[-1] == most
    assert list(found) == sorted(set(found))
    assert len(found) <= 8


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("n_cores", [1, 2, 4, 8, 16])
def test_alone_it_costs_next_to_nothing(n_cores: int, *, sees: bool) -> None:
    found = run(Headcount(n_cores), Machine(n_cores), steps((500, 0)), sees=sees)
    assert found.loss < 0.03
    assert found.numbers.count(n_cores) > 480


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("n_cores", [2, 4, 8])
def test_a_collapse_is_noticed_within_a_few_tokens(n_cores: int, *, sees: bool) -> None:
    found = run(Headcount(n_cores), Machine(n_cores), steps((100, 0), (200, 1)), sees=sees)
    # but for a trial of whether they have gone already
    assert sum(number == n_cores for number in found.numbers[106:130]) <= 2
    # of the last hundred steps few are lost to trials
    assert sum(number == n_cores for number in found.numbers[200:]) <= 4


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("n_cores", [2, 4, 8])
def test_when_the_others_have_gone_all_threads_are_used_again(n_cores: int, *, sees: bool) -> None:
    found = run(Headcount(n_cores), Machine(n_cores), steps((50, 0), (150, 1), (300, 0)), sees=sees)
    back = next(i for i, n in enumerate(found.numbers[200:]) if found.numbers[200 + i : 210 + i] == [n_cores] * 10)
    assert back <= (20 if sees else 150)
    assert found.numbers[-50:] == [n_cores] * 50


def test_a_short_disturbance_is_soon_forgotten() -> None:
    """Without anyone who tells: the first trial of more threads comes soon."""
    found = run(Headcount(2), Machine(2), steps((100, 0), (6, 1), (100, 0)), sees=False)
    assert found.numbers[130:] == [2] * len(found.numbers[130:])


def test_a_step_that_grows_with_the_context_is_no_collapse() -> None:
    """To three times its time over 5,000 tokens."""
    found = run(Headcount(4), Machine(4), steps((5000, 0)), sees=False)
    assert sum(number != 4 for number in found.numbers) < 50


def test_it_does_not_flap_beside_one_that_stays() -> None:
    found = run(Headcount(2), Machine(2), steps((2000, 1)), sees=False)
    assert sum(a != b for a, b in itertools.pairwise(found.numbers)) < 60
    assert found.loss < 0.05


def test_where_fewer_threads_are_no_faster_all_are_kept() -> None:
    """As where what disturbs takes time from all of them alike."""
    machine = Machine(4)
    chance, headcount, numbers = random.Random(1), Headcount(4), []
    for index in range(600):
        numbers.append(headcount.n_threads)
        slower = 2.0 if index > 100 else 1.0
        headcount.took(slower * machine.seconds(headcount.n_threads, 0, chance))
    assert sum(number != 4 for number in numbers) < 30
    assert numbers[-20:] == [4] * 20


def test_what_is_held_does_not_change() -> None:
    headcount = Headcount(2)
    headcount.hold(still=True)
    found = run(headcount, Machine(2, shared=2.0), steps((50, 0), (100, 1)), sees=True)
    assert set(found.numbers) == {2}
    headcount.hold(still=False)
    assert run(headcount, Machine(2), steps((50, 1)), sees=True).numbers[10:].count(2) <= 4


@pytest.mark.parametrize("sees", [True, False])
def test_what_is_held_is_given_up_once_where_steps_collapse(*, sees: bool) -> None:
    headcount = Headcount(2)
    headcount.hold(still=True)
    found = run(headcount, Machine(2, shared=60.0), steps((50, 0), (50, 1), (200, 0)), sees=sees)
    assert found.numbers[:50] == [2] * 50
    assert found.numbers[53:] == [1] * 247


def test_after_a_pause_it_begins_with_what_there_is_room_for() -> None:
    headcount = Headcount(8)
    headcount.resume(3.1)
    assert headcount.n_threads == 3
    headcount.resume(8.0)
    assert headcount.n_threads == 8
    headcount.resume(None)
    assert headcount.n_threads == 8


def test_what_will_be_held_begins_with_what_there_is_room_for() -> None:
    headcount = Headcount(2)
    headcount.resume(0.2)
    assert headcount.n_threads == 1
    headcount.hold(still=True)
    assert headcount.n_threads == 1
    headcount.see(2.0)
    assert headcount.n_threads == 1
    headcount.hold(still=False)
    headcount.hold(still=True)
    assert headcount.n_threads == 2


@settings(max_examples=60, deadline=None)
@given(
    n_cores=st.integers(1, 12),
    parts=st.lists(st.tuples(st.integers(150, 400), st.integers(0, 3)), min_size=1, max_size=6),
    shared=st.floats(1.5, 6.0),
    noise=st.floats(0.0, 0.1),
    step=st.floats(0.001, 0.5),
    sees=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_loses_little_whatever_comes(
    n_cores: int, parts: list[tuple[int, int]], shared: float, noise: float, step: float, seed: int, *, sees: bool
) -> None:
    """Against one who knows at every step what is best: a part of the whole, and some steps for each change."""
    machine = Machine(n_cores, step, step / 8, shared, noise)
    found = run(Headcount(n_cores), machine, steps(*parts), sees=sees, seed=seed)
    slowest = shared * (step + step / 8)
    assert found.seconds <= 1.2 * found.possible + len(parts) * 12 * slowest
