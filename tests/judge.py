"""A second opinion on what the planner chooses: everything that could be run, sorted, and the first that fits.

Imports nothing of llmrun.planning, leaves nothing out early and has its own copy of the policies: what is preferred to
what stands here as it is meant, so that a change of policy is a change in two places, on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from llmrun.memory.footprint import Footprint
from llmrun.settings import Constraints, RunSettings

# Nats: the worst that is "good", and the worst whose loss is only "noticeable".
GOOD, NOTICEABLE, ANY = 0.045, 0.12, math.inf
USABLE, BEARABLE = 8.0, 2.0  # tokens a second
ALL = ("devices", "experts", "split", "host")
LONG = (32768, 16384, 8192)
SHORT = (4096, 2048, 1024, 512)
DOUBLES = (*(1024 * 2**power for power in range(14, 4, -1)), *LONG, 4096)  # 16 Mi, half of it, half of that, …


@dataclass(frozen=True, slots=True)
class Step:
    """What is taken: the worst loss, placements, KV types (best first), contexts, the least speed; and what leads."""

    loss: float = ANY
    where: tuple[str, ...] = ALL
    kv_types: tuple[str, ...] = ("f16", "q8_0")
    contexts: tuple[int, ...] = LONG
    speed: float = 0.0
    leads: str = "loss"


# By preference: the steps, and the most bits per weight that are taken where there are variants with fewer.
POLICIES: dict[str, tuple[tuple[Step, ...], float]] = {
    "balanced": (
        (
            Step(GOOD, ("devices",), speed=USABLE),
            Step(GOOD, ("experts", "split"), speed=USABLE),
            Step(GOOD, ("host",), ("f16",), speed=USABLE),
            Step(GOOD, ("devices",), leads="speed"),
            Step(NOTICEABLE, ("devices",)),
            Step(GOOD, ("experts", "split"), leads="speed"),
            Step(GOOD, ("host",), ("f16",), leads="speed"),
            Step(GOOD, ("host",)),
            Step(GOOD, contexts=(4096,)),
            Step(NOTICEABLE),
            Step(NOTICEABLE, contexts=(4096,)),
            Step(),
            Step(contexts=SHORT),
            Step(kv_types=("q4_0",), contexts=LONG + SHORT),
        ),
        8.6,
    ),
    "quality": (
        (
            Step(speed=BEARABLE),
            Step(),
            Step(contexts=SHORT),
            Step(kv_types=("q4_0",), contexts=LONG + SHORT),
        ),
        math.inf,
    ),
    "speed": (
        (
            Step(GOOD, contexts=(8192, 4096), leads="speed"),
            Step(NOTICEABLE, contexts=(8192, 4096), leads="speed"),
            Step(contexts=(8192, *SHORT), leads="speed"),
            Step(contexts=(8192, *SHORT), kv_types=("q4_0",)),
        ),
        8.6,
    ),
    "context": (
        (
            Step(GOOD, kv_types=("f16", "q8_0", "q4_0"), contexts=DOUBLES, speed=BEARABLE, leads="context"),
            Step(GOOD, kv_types=("f16", "q8_0", "q4_0"), contexts=DOUBLES, leads="context"),
            Step(NOTICEABLE, kv_types=("f16", "q8_0", "q4_0"), contexts=DOUBLES, leads="context"),
            Step(kv_types=("f16", "q8_0", "q4_0"), contexts=SHORT, leads="context"),
        ),
        8.6,
    ),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A quantization: experts says of each layer whether it has some; the two functions as for the planner's offers."""

    quant: str
    loss: float
    bpw: float
    n_ctx_train: int
    experts: tuple[bool, ...]
    footprint: Callable[[RunSettings], Footprint | None]
    decode: Callable[[RunSettings], float | None]
    repacks: bool = False

    @property
    def all_layers(self) -> int:
        """n_gpu_layers with which all is on devices, the output too."""
        return len(self.experts) + 1


@dataclass(frozen=True, slots=True)
class Pools:
    """Bytes that may be taken, None without bound: of the host, and of each device by name; shared has the host's."""

    host: int | None
    devices: tuple[tuple[str, int | None], ...] = ()
    shared: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.devices)

    def fits(self, settings: RunSettings, footprint: Footprint) -> bool:
        room = dict(self.devices)
        host = footprint.host.total
        for name, used in zip(settings.devices or (), footprint.devices, strict=True):
            bound = room[name]
            if bound is not None and used.total > bound:
                return False
            host += used.total if name in self.shared else 0
        return self.host is None or host <= self.host


@dataclass(frozen=True, slots=True)
class Row:
    """What a speed is predicted for: a variant, so many layers on devices, so many with their experts on the host."""

    variant: Variant
    n_gpu_layers: int
    cpu_experts: int

    @property
    def where(self) -> str:
        if self.n_gpu_layers == 0:
            return "host"
        if self.n_gpu_layers < self.variant.all_layers:
            return "split"
        return "experts" if self.cpu_experts else "devices"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which step decided, counted from 0, and for what."""

    step: int
    variant: Variant
    settings: RunSettings


def judge(variants: Iterable[Variant], pools: Pools, fixed: Constraints, prefer: str) -> Verdict | None:
    """Return what should be chosen, None where nothing fits."""
    steps, most_bits = POLICIES[prefer]
    known = list(variants)
    taken = [variant for variant in known if variant.bpw <= most_bits] or known
    for index, step in enumerate(steps):
        found = [entry for variant in taken for entry in _entries(variant, step, pools, fixed)]
        for _, variant, make in sorted(found, key=lambda entry: entry[0]):
            settings = make()
            footprint = variant.footprint(settings)
            if footprint is not None and pools.fits(settings, footprint):
                return Verdict(index, variant, settings)
    return None


Key = tuple[object, ...]
Entry = tuple[Key, Variant, Callable[[], RunSettings]]


def _entries(variant: Variant, step: Step, pools: Pools, fixed: Constraints) -> Iterator[Entry]:
    """Yield the settings a step takes of a variant, each with its place in the order."""
    if variant.loss > step.loss:
        return
    contexts = _contexts(variant, step, fixed)
    kv_types = (fixed.type_kv,) if fixed.type_kv else step.kv_types
    for row in _rows(variant, pools, fixed):
        if row.where not in step.where:
            continue
        for n_ctx in contexts:
            # where contexts lead, each is tried as if there were no other
            speed = _speed(row, kv_types[0], n_ctx if step.leads == "context" else min(contexts), pools, fixed)
            if speed is not None and speed < step.speed:
                continue
            for kv_type in kv_types:
                for n_ubatch, repack in _ways(row):
                    for spread in _spreads(row, pools):
                        key = _key(step, row, speed, kv_types.index(kv_type), n_ctx, n_ubatch, repack, spread, pools)
                        yield key, variant, _maker(row, kv_type, n_ctx, n_ubatch, repack, spread, fixed)


def _key(
    step: Step,
    row: Row,
    speed: float | None,
    kv_type: int,
    n_ctx: int,
    n_ubatch: int,
    repack: bool,
    spread: Spread,
    pools: Pools,
) -> Key:
    """Return what the settings are sorted by: the smaller, the better; what stands earlier counts for all."""
    leading = {"loss": 0.0, "speed": -(speed or 0.0), "context": float(-n_ctx)}[step.leads]
    names, counts = spread
    # a model that is partly on the host is slow with small batches: rather one layer less on the devices
    large_first = row.where in ("experts", "split") and step.leads != "speed"
    return (
        leading,
        row.variant.loss,
        row.variant.bpw,
        row.variant.quant,
        ("devices", "experts", "split", "host").index(row.where),
        -n_ubatch if large_first else 0,
        -row.n_gpu_layers,
        row.cpu_experts,
        kv_type,
        -n_ubatch,
        not repack,
        -n_ctx,
        len(names),
        [pools.names.index(name) for name in names],
        [-count for count in counts],
    )


def _contexts(variant: Variant, step: Step, fixed: Constraints) -> list[int]:
    """A fixed one; else those of the step the model was trained for, and the trained one if the step goes so far."""
    if fixed.n_ctx is not None:
        return [fixed.n_ctx]
    trained = variant.n_ctx_train
    own = {n_ctx for n_ctx in step.contexts if n_ctx <= trained}
    return sorted(own | {trained} if trained <= max(step.contexts) else own)


def _rows(variant: Variant, pools: Pools, fixed: Constraints) -> Iterator[Row]:
    """Yield every number of layers on devices and of layers whose experts are not."""
    with_experts = [index + 1 for index, has in enumerate(variant.experts) if has]
    every = variant.all_layers
    for n_gpu_layers in range(every + 1):
        if n_gpu_layers > 0 and not pools.devices:
            continue
        if pools.devices and fixed.n_gpu_layers not in (None, n_gpu_layers):
            continue
        numbers = [0, *with_experts]
        if n_gpu_layers == 0:
            numbers = [0]
        elif n_gpu_layers < every and fixed.n_gpu_layers is None:
            numbers = numbers[-1:]  # layers follow when no expert is left to be moved
        for cpu_experts in numbers:
            yield Row(variant, n_gpu_layers, cpu_experts)


def _ways(row: Row) -> list[tuple[int, bool]]:
    """Return the batch sizes, and whether weights are repacked."""
    if row.n_gpu_layers:
        return [(512, False), (128, False)]
    return [(128, True), (128, False)] if row.variant.repacks else [(128, False)]


Spread = tuple[tuple[str, ...], tuple[int, ...]]  # devices, and how many layers each of them has


def _spreads(row: Row, pools: Pools) -> list[Spread]:
    """Return every way to deal the layers out to some of the devices, each of which gets at least one."""
    if row.n_gpu_layers == 0:
        return [((), ())]
    return [
        (names, counts)
        for size in range(1, len(pools.names) + 1)
        for names in combinations(pools.names, size)
        for counts in _parts(row.n_gpu_layers, size)
    ]


def _parts(total: int, size: int) -> list[tuple[int, ...]]:
    """Return all ways to write a number as a sum of so many, all at least 1."""
    if size == 1:
        return [(total,)] if total >= 1 else []
    return [(first, *rest) for first in range(1, total) for rest in _parts(total - first, size - 1)]


def _maker(
    row: Row, kv_type: str, n_ctx: int, n_ubatch: int, repack: bool, spread: Spread, fixed: Constraints
) -> Callable[[], RunSettings]:
    names, counts = spread
    split = tuple(float(count) for count in counts) if len(counts) > 1 else None
    return lambda: _settings(row, kv_type, n_ctx, fixed, n_ubatch, repack, names, split)


def _settings(
    row: Row,
    kv_type: str,
    n_ctx: int,
    fixed: Constraints,
    n_ubatch: int = 128,
    repack: bool = False,
    devices: tuple[str, ...] = (),
    tensor_split: tuple[float, ...] | None = None,
) -> RunSettings:
    parallel = fixed.parallel or 1
    return RunSettings(
        n_ctx=n_ctx * parallel,
        n_seq_max=parallel,
        n_outputs_max=parallel,
        n_ubatch=n_ubatch,
        type_k=kv_type,
        type_v=kv_type,
        devices=devices,
        n_gpu_layers=row.n_gpu_layers,
        tensor_split=tensor_split,
        cpu_experts=row.cpu_experts,
        repack=repack,
    )


def _speed(row: Row, kv_type: str, n_ctx: int, pools: Pools, fixed: Constraints) -> float | None:
    """How fast a row is, whatever devices have room for it: all of them are asked about."""
    devices = pools.names if row.n_gpu_layers else ()
    return row.variant.decode(_settings(row, kv_type, n_ctx, fixed, devices=devices))
