"""The variant that would be chosen if nothing were known but sizes: whose header is worth reading first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.planning.quality import GOOD, loss_of
from llmrun.variant import Variant

_UNQUANTIZED = 0.001  # nats, and less: twice the bytes of Q8_0, for a difference nobody can measure
_MORE = 1.1  # times the weights, and
_BESIDE = 1 << 30  # bytes: a cache for some thousand tokens, buffers, reserves


def guess_variant(variants: Sequence[Variant], room: int) -> Variant:
    """Return the least loss that is good and fits into `room` bytes, else the largest that fits, else the smallest."""
    fitting = [variant for variant in variants if variant.size * _MORE + _BESIDE <= room]
    if not fitting:
        return min(variants, key=lambda variant: variant.size)
    good = [variant for variant in fitting if _UNQUANTIZED < _loss(variant) <= GOOD.most]
    return min(good, key=_loss) if good else max(fitting, key=lambda variant: variant.size)


def _loss(variant: Variant) -> float:
    """What it loses by its label; one without is taken for the middle of what is good."""
    return loss_of(variant.quant, 5.0)
