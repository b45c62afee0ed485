"""Measured times to costs: the law of llmrun.planning.speed turned round. Pure.

The law is linear in every cost, so that what a unit of one cost adds to it is found by asking it twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, median

from llmrun.planning.rates import Cost, MatrixCost, Rates
from llmrun.planning.speed import Term, add_up, batch_terms, decode_terms
from llmrun.planning.work import ModelWork
from llmrun.settings import RunSettings

NOTHING = Cost(0.0)
_UNIT = Cost(1.0)
_ROUNDS = 10  # of taking turns, each of which makes the rest about four times smaller
# Parts of a measured time that may be laid to short rows, and to unpacking a small batch's weights
_MOST_OF_ROWS, _MOST_OF_UNPACKING = 0.5, 0.95

Samples = Sequence[float]
Equation = tuple[float, float, float]
Probed = tuple[ModelWork, int, Samples]  # a probe's work, tokens of a step, and the times such steps took


def spread(samples: Samples) -> float:
    """Return how far the middle half of samples reaches, as a part of their median."""
    ordered = sorted(samples)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / median(ordered)


def typical(samples: Samples) -> float:
    """Return the time a step takes when little else runs: the lower quartile, because others only ever add to it."""
    return sorted(samples)[len(samples) // 4]


def mostly(seconds: float, samples: Samples) -> float:
    """Return what was found of steps that were made of little else: half of their time at least, however disturbed."""
    return max(seconds, typical(samples) / 2)


def cost(seconds: float, samples: Samples) -> Cost:
    """Return a cost that was derived from samples; what came out below zero is nothing."""
    return Cost(max(seconds, 0.0), spread(samples))


def slope(xs: Samples, ys: Samples) -> float:
    """Return the slope of the straight line nearest to points that do not all lie above each other."""
    x_mean, y_mean = fmean(xs), fmean(ys)
    down = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / down


def solve(first: Equation, second: Equation, most: float) -> tuple[float, float]:
    """Solve a x + b y = c and d x + e y = f for what is not negative, and y for no more than a part of the second.

    y is what the first hardly has, and a disturbed measurement would make anything of it; x is half of the first.
    """
    (a, b, c), (d, e, f) = first, second
    y = min(max((a * f - c * d) / (a * e - b * d), 0.0), f / e * most)
    return max((c - b * y) / a, c / a / 2), y


def fit_one_token(type_name: str, known: Rates, settings: RunSettings, wide: Probed, narrow: Probed) -> MatrixCost:
    """Return what a type costs one token alone, from a model with long rows and one with short rows."""

    def law(work: ModelWork, read: Cost, row: Cost) -> float:
        matrix = MatrixCost(read, row, NOTHING, NOTHING, NOTHING)
        rates = known.merged(Rates(matrices={type_name: matrix}))
        return _total(decode_terms(_without_output(work), settings, lambda *_: rates, 0))

    rows = []
    for work, _, samples in (wide, narrow):
        rest = law(work, NOTHING, NOTHING)
        rows.append(
            (
                law(work, _UNIT, NOTHING) - rest,
                law(work, NOTHING, _UNIT) - rest,
                mostly(typical(samples) - rest, samples),
            ),
        )
    read, row = solve(rows[0], rows[1], _MOST_OF_ROWS)
    return MatrixCost(cost(read, wide[2]), cost(row, narrow[2]), NOTHING, NOTHING, NOTHING)


def fit_batch(
    type_name: str, known: Rates, settings: RunSettings, small: Probed, large: Probed, narrow: Probed
) -> MatrixCost:
    """Return what a type costs a batch, and one token as known, from a small and a large one and one of short rows."""
    one = known.matrices[type_name]

    def law(work: ModelWork, n_tokens: int, *costs: Cost) -> float:
        rates = known.merged(Rates(matrices={type_name: MatrixCost(one.read, one.row, *costs)}))
        return _batch_seconds(work, rates, settings, n_tokens)

    rows = []
    for work, n_tokens, samples in (large, small, narrow):
        rest = law(work, n_tokens, NOTHING, NOTHING, NOTHING)
        a = law(work, n_tokens, _UNIT, NOTHING, NOTHING) - rest
        b = law(work, n_tokens, NOTHING, _UNIT, NOTHING) - rest
        c = law(work, n_tokens, NOTHING, NOTHING, _UNIT) - rest
        rows.append((a, b, c, mostly(typical(samples) - rest, samples)))
    convey = 0.0
    for _ in range(_ROUNDS):  # the long rows tell the first two, the short ones the third, each with a little of all
        many, few = ((b, a, max(seconds - c * convey, seconds / 2)) for a, b, c, seconds in rows[:2])
        multiply, unpack = solve(many, few, _MOST_OF_UNPACKING)
        a, b, c, seconds = rows[2]
        convey = min(max((seconds - a * unpack - b * multiply) / c, 0.0), seconds / c * _MOST_OF_ROWS)
    return replace(
        one, unpack=cost(unpack, small[2]), multiply=cost(multiply, large[2]), convey=cost(convey, narrow[2])
    )


def fit_experts(type_name: str, known: Rates, settings: RunSettings, small: Probed, large: Probed) -> MatrixCost:
    """Return what experts of a type cost a batch; one token alone pays as for other matrices of the type.

    What is conveyed is not told apart: a token's numbers are prepared once for all the experts it chose.
    """
    one = replace(known.matrices[type_name], convey=NOTHING)

    def law(work: ModelWork, n_tokens: int, unpack: Cost, multiply: Cost) -> float:
        rates = known.merged(Rates(experts={type_name: replace(one, unpack=unpack, multiply=multiply)}))
        return _batch_seconds(work, rates, settings, n_tokens)

    rows = []
    for work, n_tokens, samples in (large, small):
        rest = law(work, n_tokens, NOTHING, NOTHING)
        units = (law(work, n_tokens, NOTHING, _UNIT) - rest, law(work, n_tokens, _UNIT, NOTHING) - rest)
        rows.append((*units, mostly(typical(samples) - rest, samples)))
    multiply, unpack = solve(rows[0], rows[1], _MOST_OF_UNPACKING)
    return replace(one, unpack=cost(unpack, small[2]), multiply=cost(multiply, large[2]))


def _batch_seconds(work: ModelWork, rates: Rates, settings: RunSettings, n_tokens: int) -> float:
    return _total(batch_terms(_without_output(work), settings, lambda *_: rates, 0, n_tokens, n_tokens))


def _without_output(work: ModelWork) -> ModelWork:
    """A probe's output is so small that it is not worth an unknown."""
    return replace(work, output=(), n_vocab=0)


def _total(terms: Iterable[Term | None]) -> float:
    total = add_up(terms)
    assert total is not None, "a probe needs only what was measured before it"
    return total[0]
