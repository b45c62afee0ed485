"""Thousands of small models on small machines: what there is to choose from, drawn around the sizes that decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from types import MappingProxyType
from typing import TypeVar

from llmrun.hardware.device import Device
from llmrun.hardware.layout import Layout, Layouts
from llmrun.memory.estimate import Estimator, Machine
from llmrun.memory.footprint import Footprint
from llmrun.settings import Constraints, RunSettings
from scripts.architectures.decoder import Decoder
from scripts.architectures.hybrid import DeltaNet
from scripts.architectures.model import Shape
from scripts.architectures.quants import bits_per_weight, quantized

_EXPERTS = Decoder("qwen3moe", 2, 256, 512, 4, 2, 64, 512, 8192, n_expert=10, n_expert_used=2, n_ff_exp=512)
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "llama, 2 layers": Decoder("llama", 2, 512, 1024, 8, 2, 64, 1024, 16384),
        "llama, 4 layers": Decoder("llama", 4, 256, 512, 4, 2, 64, 512, 8192),
        "llama, 5 layers": Decoder("llama", 5, 256, 512, 4, 2, 64, 512, 8192),
        "odd rows, tied": Decoder("qwen2", 3, 320, 576, 5, 1, 64, 1024, 5000, tied=True),
        "gemma3, windows": Decoder("gemma3", 4, 256, 512, 4, 1, 64, 1024, 8192, True, n_swa=512, swa_pattern=2),
        "experts everywhere": _EXPERTS,
        "experts but in the first": replace(
            *(_EXPERTS,),
            architecture="glm4moe",
            n_layer=3,
            n_ctx_train=2048,
            n_layer_dense=1,
            extra=(("rope.dimension_count", 32), ("expert_gating_func", 2)),
        ),
        "hybrid": DeltaNet("qwen35", 4, 256, 512, 2, 1, 256, 512, 2, 4, tied=True, n_ctx_train=9000),
    }
)
# Nats, of this table's own making: in every class there is something, and two are alike.
LOSSES: Mapping[str, float] = MappingProxyType(
    {"Q8_0": 0.001, "Q5_0": 0.02, "Q5_K_S": 0.02, "Q4_0": 0.07, "IQ1_M": 1.4, "F16": 0.0006}
)
T = TypeVar("T")
_CARD, _OTHER_CARD = (Device(f"CUDA{index}", "CUDA", "a card", None, None) for index in range(2))
_LENT = Device("rpc:10.0.0.2:50052", "RPC", "another machine", None, None)
_INTEGRATED = Device("Vulkan0", "Vulkan", "a part of the processor", None, None, unified=True)
DEVICES: Mapping[str, Device] = MappingProxyType(
    {device.id: device for device in (_CARD, _OTHER_CARD, _LENT, _INTEGRATED)}
)
MACHINES: tuple[tuple[str, ...], ...] = (
    (),
    (_CARD.id,),
    (_LENT.id,),
    (_INTEGRATED.id,),
    (_CARD.id, _OTHER_CARD.id),
    (_LENT.id, _CARD.id),
    (_CARD.id, _INTEGRATED.id),
    (_CARD.id, _OTHER_CARD.id, _INTEGRATED.id),
)
_REPACKED: Layouts = MappingProxyType({"Q4_0": (Layout(8),), "Q4_K": (Layout(8),)})


@dataclass(frozen=True, slots=True)
class File:
    """A model in a quantization; what it takes is worked out once, for all devices of a kind."""

    quant: str
    bpw: float
    estimator: Estimator
    known: dict[RunSettings, Footprint]

    def footprint(self, settings: RunSettings) -> Footprint:
        if settings not in self.known:
            devices = tuple(DEVICES[name] for name in settings.devices or ())
            alike = replace(settings, devices=tuple(device.backend for device in devices))
            if alike not in self.known:
                self.known[alike] = self.estimator.estimate(settings, Machine(devices, _REPACKED)).footprint
            self.known[settings] = self.known[alike]
        return self.known[settings]


@cache
def file_of(shape: str, quant: str) -> File:
    header = quantized(SHAPES[shape].model(), quant)
    return File(quant, bits_per_weight(header), Estimator(header), {})


@dataclass(frozen=True, slots=True)
class Pace:
    """Bytes a second that are read on the host and on devices, and seconds for each token of context; None unknown."""

    host: float
    device: float
    token: float = 0.0

    def decode(self, file: File, settings: RunSettings) -> float:
        used = file.footprint(settings)
        on_devices = sum(device.weights + device.kv_cache for device in used.devices)
        seconds = (used.host.weights + used.host.kv_cache) / self.host + on_devices / self.device
        return 1 / (seconds + self.token * (settings.n_ctx or 0))


@dataclass(frozen=True, slots=True)
class Case:
    """A question to planner and judge; capacities are bytes, None unbounded. unpaced: its speed is not known."""

    number: int
    shape: str
    files: tuple[File, ...]
    n_ctx_train: tuple[int, ...]
    repacks: tuple[bool, ...]
    devices: tuple[str, ...]
    rooms: tuple[int | None, ...]
    host: int
    fixed: Constraints
    pace: Pace
    unpaced: frozenset[str]

    def decoder(self, file: File) -> Callable[[RunSettings], float | None]:
        return lambda settings: None if file.quant in self.unpaced else self.pace.decode(file, settings)


def draw(number: int) -> Case:
    """Return the case of this number, always the same."""
    random = Random(number)
    shape = random.choice(list(SHAPES))
    quants = random.sample(list(LOSSES), random.choice((2, 2, 3, 4)))
    files = tuple(file_of(shape, quant) for quant in quants)
    # three devices and many layers are ten thousand ways to spread them, and the judge sorts all
    n_layer = files[0].estimator.shape.n_layer
    devices = random.choice([names for names in MACHINES if len(names) < 3 or n_layer < 4])
    fixed = _constraints(random, n_layer)
    host, rooms = _capacities(random, files, devices, fixed)
    trained = files[0].estimator.shape.n_ctx_train
    return Case(
        number,
        shape,
        files,
        # once in a while a repository has files made for a longer context
        tuple(trained * (2 if random.random() < 0.03 else 1) for _ in files),
        tuple(random.random() < 0.3 for _ in files),
        devices,
        rooms,
        host,
        fixed,
        _pace(random, files),
        frozenset(quant for quant in quants if random.random() < 0.1),
    )


def _constraints(random: Random, n_layer: int) -> Constraints:
    def perhaps(options: Sequence[T]) -> T | None:
        return random.choice(options) if random.random() < 0.15 else None

    return Constraints(
        n_ctx=perhaps((512, 3000, 8192, 100_000)),
        n_gpu_layers=perhaps(range(n_layer + 2)),
        type_kv=perhaps(("f16", "q8_0", "q4_0")),
        parallel=perhaps((1, 2)),
    )


def _capacities(
    random: Random, files: Sequence[File], devices: tuple[str, ...], fixed: Constraints
) -> tuple[int, tuple[int | None, ...]]:
    """What some settings take, to the byte or a little more or less: there a choice turns."""
    used = random.choice(files).footprint(_some_settings(random, files[0].estimator.shape.n_layer, devices, fixed))
    rooms: list[int | None] = [_near(random, device.total) for device in used.devices] or [0] * len(devices)
    for index in range(len(rooms)):
        if random.random() < 0.05:
            rooms[index] = None
    host = used.host.total
    if random.random() < 0.4:
        other = _some_settings(random, files[0].estimator.shape.n_layer, devices, fixed)
        host = random.choice(files).footprint(other).host.total
    shared = sum(room or 0 for room, name in zip(rooms, devices, strict=True) if DEVICES[name].unified)
    return _near(random, host) + shared, tuple(rooms)


def _near(random: Random, size: int) -> int:
    return max(0, size + random.choice((0, 0, -1, 1, random.randrange(-(4 << 20), 4 << 20))))


def _some_settings(random: Random, n_layer: int, devices: tuple[str, ...], fixed: Constraints) -> RunSettings:
    n_gpu_layers = random.choice((0, random.randint(0, n_layer + 1), n_layer + 1)) if devices else 0
    kv_type = fixed.type_kv or random.choice(("f16", "q8_0", "q4_0"))
    n_ctx = fixed.n_ctx or random.choice((512, 1024, 2048, 4096, 8192, 16384, 32768))
    parallel = fixed.parallel or 1
    return RunSettings(
        n_ctx=n_ctx * parallel,
        n_seq_max=parallel,
        n_outputs_max=parallel,
        n_ubatch=random.choice((128, 512)) if n_gpu_layers else 128,
        type_k=kv_type,
        type_v=kv_type,
        devices=devices,
        n_gpu_layers=n_gpu_layers,
        tensor_split=tuple(float(random.randint(1, 4)) for _ in devices) or None,
        cpu_experts=random.choice((0, 1, n_layer)) if n_gpu_layers else 0,
    )


def _pace(random: Random, files: Sequence[File]) -> Pace:
    """Of the model's first file the host reads between one in two seconds and 60 in one."""
    weights = files[0].footprint(RunSettings(n_ctx=512, devices=(), n_gpu_layers=0)).host.weights
    host = weights * random.choice((0.5, 1.0, 3.0, 7.0, 10.0, 20.0, 60.0))
    return Pace(host, host * random.choice((0.5, 1.0, 4.0, 20.0)), random.choice((0.0, 1e-6, 1e-5)))
