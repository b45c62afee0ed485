"""Machines and wishes whose plans were decided by hand, before the planner was asked: `expect` is that decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from llmrun.hardware.device import Device
from llmrun.planning.policy import Prefer
from llmrun.settings import Constraints


class Machine(NamedTuple):
    """GiB of RAM: built in, and to be had beside a browser and an editor, or of a container's limit; GB/s the host
    reads weights with. devices: GiB of each are what is free, for those without memory of their own what the driver
    lets one program have.
    """

    words: str
    ram: float
    available: float
    speed: float
    devices: tuple[Device, ...] = ()
    limit: float | None = None


def _card(name: str, total: float, free: float, index: int = 0) -> Device:
    return Device(f"CUDA{index}", "CUDA", name, _gib(total), _gib(free))


def _gib(size: float) -> int:
    return int(size * (1 << 30))


def _mac(chip: str, ram: float, available: float, allowed: float, speed: float) -> Machine:
    return Machine(
        f"{chip}, {ram:g} GiB",
        ram,
        available,
        speed,
        (Device("MTL0", "MTL", f"Apple {chip}", _gib(ram), _gib(allowed), unified=True),),
    )


LAPTOP_8 = Machine("laptop, 8 GiB", 8, 5.0, 25)
LAPTOP_16 = Machine("laptop, 16 GiB", 16, 12.0, 30)
LAPTOP_32 = Machine("laptop, 32 GiB", 32, 27.0, 50)
CARD_6 = Machine("RTX 2060 6 GB, 16 GiB", 16, 12.0, 30, (_card("NVIDIA GeForce RTX 2060", 6, 5.6),))
CARD_8 = Machine("RTX 4060 8 GB, 32 GiB", 32, 27.0, 40, (_card("NVIDIA GeForce RTX 4060", 8, 7.4),))
CARD_12 = Machine("RTX 3060 12 GB, 32 GiB", 32, 27.0, 40, (_card("NVIDIA GeForce RTX 3060", 12, 11.4),))
CARD_24 = Machine("RTX 4090 24 GB, 64 GiB", 64, 58.0, 55, (_card("NVIDIA GeForce RTX 4090", 24, 23.2),))
PAIR = Machine(
    "RTX 3090 24 GB and RTX 3070 8 GB, 64 GiB",
    *(64, 58.0, 40),
    (_card("NVIDIA GeForce RTX 3090", 24, 23.2), _card("NVIDIA GeForce RTX 3070", 8, 7.4, 1)),
)
# Metal lets one program have two thirds of 16 GiB, and three quarters of more than 36
MAC_16 = _mac("M2", 16, 11.5, 10.66, 50)
MAC_32 = _mac("M2 Pro", 32, 26.0, 21.33, 90)
MAC_64 = _mac("M3 Max", 64, 56.0, 48.0, 150)
CONTAINER_2 = Machine("container of 2 GiB", 64, 2.0, 40, limit=2.0)
CONTAINER_4 = Machine("container of 4 GiB", 64, 4.0, 40, limit=4.0)


@dataclass(frozen=True, slots=True)
class PlanCase:
    """A wish on a machine, and what somebody who knows both would do."""

    name: str
    machine: Machine
    model: str
    expect: str
    prefer: Prefer = "balanced"
    fixed: Constraints = field(default_factory=Constraints)


CASES: tuple[PlanCase, ...] = (
    PlanCase("laptop-8-0.6b", LAPTOP_8, "qwen3-0.6b", "Q8_0, nothing smaller is worth it; 16k or more"),
    PlanCase("laptop-8-1b", LAPTOP_8, "llama-3.2-1b", "Q8_0, 15 tok/s; 32k"),
    PlanCase("laptop-8-8b", LAPTOP_8, "llama-3.1-8b", "the best of 3 bits that leaves 4k to 8k; say that it is small"),
    PlanCase("laptop-16-8b", LAPTOP_16, "llama-3.1-8b", "Q4_K_M, 6 tok/s; 16k or more"),
    PlanCase("laptop-16-8b-quality", LAPTOP_16, "qwen3-8b", "Q8_0, 3 tok/s are borne; 8k", "quality"),
    PlanCase("laptop-16-8b-speed", LAPTOP_16, "qwen3-8b", "IQ4_XS or Q4_0, what is read fastest; 8k", "speed"),
    PlanCase("laptop-16-8b-context", LAPTOP_16, "qwen3-8b", "Q4_K_M with all 40k, f16 or 8 bits", "context"),
    PlanCase("laptop-16-14b", LAPTOP_16, "phi-4", "Q4_K_M or IQ4_XS, 3 tok/s; 8k"),
    PlanCase("laptop-16-27b", LAPTOP_16, "gemma-3-27b", "2 bits, a last resort, if at all; a smaller model is better"),
    PlanCase("laptop-32-32b", LAPTOP_32, "qwen3-32b", "Q4_K_M or IQ4_XS, 2.5 tok/s; 8k"),
    PlanCase("laptop-32-30b-a3b", LAPTOP_32, "qwen3-30b-a3b", "Q5_K_M or Q6_K, fast with so few active; 16k"),
    PlanCase("laptop-8-70b", LAPTOP_8, "llama-3.1-70b", "refused"),
    PlanCase("card-6-8b", CARD_6, "llama-3.1-8b", "IQ4_XS or Q4_K_S all on the GPU, 8k with the cache in 8 bits"),
    PlanCase("card-6-14b", CARD_6, "phi-4", "Q4_K_M, half on the GPU, 5 tok/s; 8k"),
    PlanCase("card-8-0.6b", CARD_8, "qwen3-0.6b", "Q8_0 all on the GPU, 32k or all; F16 is wasted"),
    PlanCase("card-8-8b", CARD_8, "llama-3.1-8b", "Q5_K_M all on the GPU; 8k in f16"),
    PlanCase(
        *("card-8-8b-32k", CARD_8, "llama-3.1-8b", "Q4_K_M all on the GPU, the cache in 8 bits"),
        fixed=Constraints(n_ctx=32768),
    ),
    PlanCase(
        *("card-8-8b-parallel", CARD_8, "qwen3-8b", "Q4_K_M all on the GPU, 2 of 8k each in 8 bits"),
        fixed=Constraints(parallel=2),
    ),
    PlanCase("card-8-8b-speed", CARD_8, "llama-3.1-8b", "IQ4_XS or Q4_0 all on the GPU; 8k", "speed"),
    PlanCase("card-8-14b", CARD_8, "phi-4", "Q4_K_M, 60 % on the GPU, 8 tok/s; 8k"),
    PlanCase("card-8-30b-a3b", CARD_8, "qwen3-30b-a3b", "Q4_K_M to Q5_K_M, attention and some experts on the GPU; 16k"),
    PlanCase("card-12-14b", CARD_12, "phi-4", "Q4_K_M all on the GPU; 8k in f16"),
    PlanCase("card-12-30b-a3b", CARD_12, "qwen3-30b-a3b", "Q5_K_M, a third of the experts on the GPU, 20 tok/s; 16k"),
    PlanCase("card-12-32b", CARD_12, "qwen3-32b", "Q4_K_M or IQ4_XS, half on the GPU, 3 tok/s; 8k"),
    PlanCase("card-24-8b-context", CARD_24, "llama-3.1-8b", "Q8_0 or Q6_K with all 128k, in 8 bits", "context"),
    PlanCase("card-24-30b-a3b", CARD_24, "qwen3-30b-a3b", "Q4_K_M or Q5_K_M all on the GPU; 16k or more"),
    PlanCase("card-24-32b", CARD_24, "qwen3-32b", "Q4_K_M all on the GPU; 8k in f16"),
    PlanCase("card-24-70b", CARD_24, "llama-3.1-70b", "IQ4_XS or Q4_K_M, half on the GPU, 2 tok/s; 8k"),
    PlanCase("pair-8b", PAIR, "llama-3.1-8b", "Q8_0 on the large card alone; 32k"),
    PlanCase("pair-32b", PAIR, "qwen3-32b", "Q5_K_M or Q6_K over both; 8k or more in f16"),
    PlanCase("pair-70b", PAIR, "llama-3.1-70b", "Q4_K_M or IQ4_XS, 3 in 4 layers over both; 8k"),
    PlanCase("mac-16-8b", MAC_16, "llama-3.1-8b", "Q4_K_M, 10 tok/s; Q8_0 fits, and is half as fast; 8k or more"),
    PlanCase("mac-32-30b-a3b", MAC_32, "qwen3-30b-a3b", "Q4_K_M all on the GPU; 16k or more"),
    PlanCase("mac-64-70b", MAC_64, "llama-3.1-70b", "Q4_K_M all on the GPU, 5 tok/s; 16k"),
    PlanCase("container-2-1b", CONTAINER_2, "llama-3.2-1b", "Q8_0 or Q6_K; 8k"),
    PlanCase("container-4-8b", CONTAINER_4, "llama-3.1-8b", "2 or 3 bits with a short context"),
)  # fmt: skip
