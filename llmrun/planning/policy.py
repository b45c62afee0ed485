"""What is preferred to what: for each `--prefer` an ordered list of steps, in one place. Pure.

Policy is an order, not a score. The first step that has settings which fit decides; within a step they are ordered by
what the step names first, and then always alike:

1. the variant, by loss, and of each the placement: most layers on devices; of a model with experts, as few of those as
   possible on the host, and layers follow only when all experts are there; large batches before small ones where a part
   stays on the host. Or both together, by predicted speed;
2. the KV type, in the order of the step;
3. large batches where there are devices;
4. repacked weights, where they pay;
5. where several conversations are to be held at once, the most of them; and the longest context of the step;
6. how layers are spread: the fewest devices, the earlier ones, and of these the earlier ones the fuller.

So nothing that stands earlier is given up for what stands later. Free memory does not enter the order: more of it can
only make an earlier entry fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from llmrun.planning.quality import GOOD, LAST_RESORT, NOTICEABLE, LossClass

Prefer = Literal["balanced", "quality", "speed", "context"]
PREFERENCES: tuple[Prefer, ...] = ("balanced", "quality", "speed", "context")
Where = Literal["devices", "experts", "split", "host"]
Order = Literal["loss", "speed", "context"]

USABLE = 8.0  # tokens a second: somewhat faster than people read
BEARABLE = 2.0  # tokens a second: an answer of 200 tokens in less than two minutes
# More bits per weight than Q8_0 has, which is 8.5: twice the time for a difference nobody can measure.
MOST_BITS = 8.6

ANYWHERE: tuple[Where, ...] = ("devices", "experts", "split", "host")
_LONG = (32768, 16384, 8192)
_SHORT = (2048, 1024, 512)
_EVERY = tuple(1 << power for power in range(24, 11, -1))  # MAX_N_CTX to 4096
_ALL_KV_TYPES = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class Step:
    """Settings that are all preferred to those of the next step; `why` is for people.

    loss: the worst class taken. where: placements: all on devices; all but some experts; some layers; none. speed: the
    least predicted tokens a second of decoding; one that is not known is fast enough. contexts: the longest first, see
    `Step.up_to`. kv_types: the preferred first. order: what variants are tried by, see above; "context" tries each
    context by itself, the longest first, before any other variant.
    """

    why: str
    loss: LossClass = LAST_RESORT
    where: tuple[Where, ...] = ANYWHERE
    speed: float = 0.0
    contexts: tuple[int, ...] = _LONG
    kv_types: tuple[str, ...] = ("f16", "q8_0")
    order: Order = "loss"

    def up_to(self, n_ctx_train: int) -> tuple[int, ...]:
        """Return the contexts for a model: those it was trained for, and the trained one itself below the longest."""
        fitting = {n_ctx for n_ctx in self.contexts if n_ctx <= n_ctx_train}
        return tuple(sorted(fitting | ({n_ctx_train} if n_ctx_train <= self.contexts[0] else set()), reverse=True))


@dataclass(frozen=True, slots=True)
class Policy:
    """Steps, the best first. most_bits: variants with more bits per weight are left out where there are others."""

    summary: str
    steps: tuple[Step, ...]
    most_bits: float | None = MOST_BITS


class _Longest(TypedDict):
    contexts: tuple[int, ...]
    kv_types: tuple[str, ...]
    order: Order


_LONGEST: _Longest = {"contexts": _EVERY, "kv_types": _ALL_KV_TYPES, "order": "context"}

POLICIES: dict[Prefer, Policy] = {
    "balanced": Policy(
        "a good quantization on the GPU, else the best that is fast enough",
        (
            Step("good, all on the GPU, and fast enough", GOOD, ("devices",), USABLE),
            Step("good, partly on the GPU, and fast enough", GOOD, ("experts", "split"), USABLE),
            # a quantized KV cache makes a CPU read prompts four times slower
            Step("good, on the CPU, and fast enough", GOOD, ("host",), USABLE, kv_types=("f16",)),
            Step("good and slow: the fastest, all on the GPU", GOOD, ("devices",), order="speed"),
            Step("a little worse, but all on the GPU", NOTICEABLE, ("devices",)),
            Step("good and slow: the fastest, partly on the GPU", GOOD, ("experts", "split"), order="speed"),
            Step("good and slow: the fastest, on the CPU", GOOD, ("host",), kv_types=("f16",), order="speed"),
            Step("good, with a quantized KV cache on the CPU", GOOD, ("host",)),
            Step("good, with a shorter context", GOOD, contexts=(4096,)),
            Step("a little worse", NOTICEABLE),
            Step("a little worse, with a shorter context", NOTICEABLE, contexts=(4096,)),
            Step("whatever fits"),
            Step("whatever fits, with a short context", contexts=(4096, *_SHORT)),
            Step("whatever fits, with a KV cache of 4 bits", contexts=(*_LONG, 4096, *_SHORT), kv_types=("q4_0",)),
        ),
    ),
    "quality": Policy(
        "the least loss that can be borne to wait for",
        (
            Step("the least loss that is not too slow", speed=BEARABLE),
            Step("the least loss, however slow"),
            Step("the least loss, with a shorter context", contexts=(4096, *_SHORT)),
            Step("the least loss, with a KV cache of 4 bits", contexts=(*_LONG, 4096, *_SHORT), kv_types=("q4_0",)),
        ),
        most_bits=None,
    ),
    "speed": Policy(
        "the fastest good quantization",
        (
            Step("the fastest that is good", GOOD, contexts=(8192, 4096), order="speed"),
            Step("the fastest that is a little worse", NOTICEABLE, contexts=(8192, 4096), order="speed"),
            Step("the fastest that fits", contexts=(8192, 4096, *_SHORT), order="speed"),
            Step("whatever fits", contexts=(8192, 4096, *_SHORT), kv_types=("q4_0",)),
        ),
    ),
    "context": Policy(
        "the longest context a good quantization leaves room for",
        (
            Step("the longest context, not too slow", GOOD, speed=BEARABLE, **_LONGEST),
            Step("the longest context, however slow", GOOD, **_LONGEST),
            Step("the longest, a little worse", NOTICEABLE, **_LONGEST),
            Step("whatever fits", contexts=(4096, *_SHORT), kv_types=_ALL_KV_TYPES, order="context"),
        ),
    ),
}
