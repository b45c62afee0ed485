"""What real runs teach about predictions: by which factor they miss, for all weights and for those of one type. Pure.

The law of llmrun.planning.speed leaves out what it cannot know: how warm the machine gets, what else runs on it, what
an architecture does between its matrices. On one machine that is much the same for every model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from llmrun.planning.speed import Speed

# Runs of a type that count as much as all that is known of the machine besides
_TRUST = 1.0
# How far one model's speed lies from where the others' on the same machine are, as a part: `scripts/bench speed`
_NOISE = 0.05
# Relative error that remains after calibrating on a single run: `scripts/bench speed`
_LEFT = 0.10
# How much of a correction is doubted after a single run: what was far off once, as on a machine that is busy for the
# moment, or with a model that is smaller than any the law was tried on, may be far off the other way next time.
_DOUBT = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """What was predicted for a run, not calibrated, and what came: tokens a second, None where too few were seen.

    main_type: the type most of the model's weights have. measured: whether it was predicted from costs that were all
    measured here, and not from tables.
    """

    main_type: str
    decode_predicted: float | None = None
    decode: float | None = None
    prefill_predicted: float | None = None
    prefill: float | None = None
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Factors:
    """Factors for predicted speeds: of all models, and of those whose weights are mostly of one type.

    error: what remains, as a part; None where no run was seen.
    """

    overall: float = 1.0
    by_type: Mapping[str, float] = field(default_factory=dict)
    error: float | None = None

    def of(self, main_type: str) -> float:
        """Return the factor for a model."""
        return self.by_type.get(main_type, self.overall)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors for writing and for reading."""

    decode: Factors = Factors()
    prefill: Factors = Factors()

    def apply(self, speed: Speed) -> Speed:
        """Return a predicted speed as it has to be expected on this machine."""
        return replace(
            speed,
            decode=speed.decode * self.decode.of(speed.main_type),
            prefill=speed.prefill * self.prefill.of(speed.main_type),
            decode_error=speed.decode_error if self.decode.error is None else self.decode.error,
            prefill_error=speed.prefill_error if self.prefill.error is None else self.prefill.error,
        )


def calibrate(runs: Iterable[Run]) -> Calibration:
    """Return the factors that runs on one machine with the same costs teach; none teach nothing."""
    known = list(runs)
    return Calibration(
        _factors([(run.main_type, ratio) for run in known if (ratio := _ratio(run.decode, run.decode_predicted))]),
        _factors([(run.main_type, ratio) for run in known if (ratio := _ratio(run.prefill, run.prefill_predicted))]),
    )


def _ratio(actual: float | None, predicted: float | None) -> float | None:
    return actual / predicted if actual and predicted else None


def _factors(ratios: Sequence[tuple[str, float]]) -> Factors:
    """Medians, so that a run on a busy machine does no harm; of logarithms, so that half and double are alike."""
    if not ratios:
        return Factors()
    overall = _believed(median(math.log(ratio) for _, ratio in ratios), len(ratios))
    by_type: dict[str, list[float]] = {}
    for name, ratio in ratios:
        by_type.setdefault(name, []).append(math.log(ratio))
    # a type with few runs stays near the machine's factor
    logarithms = {
        name: overall + (median(own) - overall) * len(own) / (len(own) + _TRUST) for name, own in by_type.items()
    }
    left = median(abs(math.log(ratio) - logarithms[name]) for name, ratio in ratios)
    factors = {name: math.exp(value) for name, value in logarithms.items()}
    return Factors(math.exp(overall), factors, _LEFT + left + _DOUBT * abs(overall) / len(ratios))


def _believed(logarithm: float, n_runs: int) -> float:
    """Return as much of a factor as is not chance: one of a few percent that a single run shows says little.

    The mean of a normal distribution as wide as the factor itself, seen through n_runs runs' noise.
    """
    noise = _NOISE**2 / n_runs
    return logarithm * logarithm**2 / (logarithm**2 + noise)
