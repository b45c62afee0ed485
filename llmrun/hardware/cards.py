"""Known cards: name, memory and backend, for machines that are not here. Knows nothing of how fast they are.

Memory is what the makers' data sheets say (nvidia.com/geforce and /data-center, amd.com, intel.com/arc, apple.com),
whose "GB" are GiB. Where a card was sold with several sizes, the first is what its plain name means: that of its
launch, of two at once the smaller.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

_GIB = 1 << 30

_Sizes = dict[str, tuple[int, ...]]  # GiB by name

_GEFORCE: _Sizes = {
    # Pascal and Turing without RTX, 2016 to 2020
    "GTX 1050 Ti": (4,),
    "GTX 1060": (6, 3),
    "GTX 1070": (8,),
    "GTX 1070 Ti": (8,),
    "GTX 1080": (8,),
    "GTX 1080 Ti": (11,),
    "GTX 1650": (4,),
    "GTX 1650 SUPER": (4,),
    "GTX 1660": (6,),
    "GTX 1660 SUPER": (6,),
    "GTX 1660 Ti": (6,),
    # Turing, 2018
    "RTX 2060": (6, 12),
    "RTX 2060 SUPER": (8,),
    "RTX 2070": (8,),
    "RTX 2070 SUPER": (8,),
    "RTX 2080": (8,),
    "RTX 2080 SUPER": (8,),
    "RTX 2080 Ti": (11,),
    # Ampere, 2020
    "RTX 3050": (8, 6),
    "RTX 3060": (12, 8),
    "RTX 3060 Ti": (8,),
    "RTX 3070": (8,),
    "RTX 3070 Ti": (8,),
    "RTX 3080": (10, 12),
    "RTX 3080 Ti": (12,),
    "RTX 3090": (24,),
    "RTX 3090 Ti": (24,),
    # Ada, 2022
    "RTX 4060": (8,),
    "RTX 4060 Ti": (8, 16),
    "RTX 4070": (12,),
    "RTX 4070 SUPER": (12,),
    "RTX 4070 Ti": (12,),
    "RTX 4070 Ti SUPER": (16,),
    "RTX 4080": (16,),
    "RTX 4080 SUPER": (16,),
    "RTX 4090": (24,),
    "RTX 4090 D": (24,),
    # Blackwell, 2025
    "RTX 5050": (8,),
    "RTX 5060": (8,),
    "RTX 5060 Ti": (8, 16),
    "RTX 5070": (12,),
    "RTX 5070 Ti": (16,),
    "RTX 5080": (16,),
    "RTX 5090": (32,),
}
# Laptops' cards, which share little but the name with the desktop's; those before the 30 series have the same memory
_GEFORCE_LAPTOP: _Sizes = {
    "RTX 3050": (4, 6),
    "RTX 3050 Ti": (4,),
    "RTX 3060": (6,),
    "RTX 3070": (8,),
    "RTX 3070 Ti": (8,),
    "RTX 3080": (8, 16),
    "RTX 3080 Ti": (16,),
    "RTX 4050": (6,),
    "RTX 4060": (8,),
    "RTX 4070": (8,),
    "RTX 4080": (12,),
    "RTX 4090": (16,),
    "RTX 5050": (8,),
    "RTX 5060": (8,),
    "RTX 5070": (8,),
    "RTX 5070 Ti": (12,),
    "RTX 5080": (16,),
    "RTX 5090": (24,),
}
_NVIDIA_WORKSTATION: _Sizes = {
    "TITAN RTX": (24,),
    "Quadro RTX 4000": (8,),
    "Quadro RTX 5000": (16,),
    "Quadro RTX 6000": (24,),
    "Quadro RTX 8000": (48,),
    "RTX A2000": (6, 12),
    "RTX A4000": (16,),
    "RTX A4500": (20,),
    "RTX A5000": (24,),
    "RTX A5500": (24,),
    "RTX A6000": (48,),
    "RTX 2000 Ada": (16,),
    "RTX 4000 Ada": (20,),
    "RTX 4500 Ada": (24,),
    "RTX 5000 Ada": (32,),
    "RTX 6000 Ada": (48,),
    "RTX PRO 4000": (24,),
    "RTX PRO 4500": (32,),
    "RTX PRO 5000": (48, 72),
    "RTX PRO 6000": (96,),
}
# HBM, which keeps its error correction beside the memory
_NVIDIA_CENTRE: _Sizes = {
    "Tesla P100": (16, 12),
    "Tesla V100": (16, 32),
    "A30": (24,),
    "A100": (40, 80),
    "H100": (80, 94),
    "H200": (141,),
    "B200": (180,),
}
# GDDR, which keeps it inside: a sixteenth is gone (nvidia-smi tells of 15360 MiB on a T4, of 23034 on an L4)
_NVIDIA_CENTRE_GDDR: _Sizes = {
    "Tesla P40": (24,),
    "Tesla T4": (16,),
    "A2": (16,),
    "A10": (24,),
    "A10G": (24,),
    "A40": (48,),
    "L4": (24,),
    "L40": (48,),
    "L40S": (48,),
}
_RADEON: _Sizes = {
    # those AMD's HIP runs on; RDNA 2, 2020
    "RX 6600": (8,),
    "RX 6600 XT": (8,),
    "RX 6650 XT": (8,),
    "RX 6700": (10,),
    "RX 6700 XT": (12,),
    "RX 6750 XT": (12,),
    "RX 6800": (16,),
    "RX 6800 XT": (16,),
    "RX 6900 XT": (16,),
    "RX 6950 XT": (16,),
    # RDNA 3, 2022
    "RX 7600": (8,),
    "RX 7600 XT": (16,),
    "RX 7700 XT": (12,),
    "RX 7800 XT": (16,),
    "RX 7900 GRE": (16,),
    "RX 7900 XT": (20,),
    "RX 7900 XTX": (24,),
    # RDNA 4, 2025
    "RX 9060 XT": (8, 16),
    "RX 9070": (16,),
    "RX 9070 XT": (16,),
    # workstations and data centres
    "VII": (16,),
    "PRO W6800": (32,),
    "PRO W7800": (32, 48),
    "PRO W7900": (48,),
    "AI PRO R9700": (32,),
}
_INSTINCT: _Sizes = {
    "MI50": (16, 32),
    "MI60": (32,),
    "MI100": (32,),
    "MI210": (64,),
    "MI300X": (192,),
    "MI325X": (256,),
}
_ARC: _Sizes = {
    "A310": (4,),
    "A380": (6,),
    "A580": (8,),
    "A750": (8,),
    "A770": (16, 8),
    "B570": (10,),
    "B580": (12,),
    "Pro B50": (16,),
    "Pro B60": (24,),
}
_APPLE = (
    *("M1", "M1 Pro", "M1 Max", "M1 Ultra", "M2", "M2 Pro", "M2 Max", "M2 Ultra", "M3", "M3 Pro", "M3 Max", "M3 Ultra"),
    *("M4", "M4 Pro", "M4 Max", "M5", "M5 Pro", "M5 Max"),
)

# Words that a driver, a shop or a person says or leaves out; a series is told by its number as well
_NOISE = re.compile(r"nvidia|geforce|quadro|tesla|amd|radeon|instinct|intel|apple|graphics|generation|gpu|\((?:r|tm)\)")
_SERIES = re.compile(r"^(?:rtx|gtx|rx|arc)(?=.)")


@dataclass(frozen=True, slots=True)
class Card:
    """A card, or what computes in its place. name: as its driver calls it. backend: as ggml names it.

    memory: bytes of its own; None where it uses the host's.
    """

    name: str
    backend: str
    memory: int | None


def find_card(text: str) -> Card | None:
    """Return the card somebody means by "rtx4090", "GeForce RTX 4090 Laptop GPU", "4060ti-16gb"; None for no card."""
    return _by_key().get(_key(text))


def nearest_cards(text: str) -> tuple[str, ...]:
    """Return the names most like a text that names no card, as they can be typed, the nearest first; at most three.

    Of two names for one card the shorter.
    """
    shortest = {card: name for name, card in reversed(list(known_cards().items()))}
    typed = {_key(name): name for name in shortest.values()}
    near = difflib.get_close_matches(_key(text), typed, n=3, cutoff=0.6)
    return tuple(typed[key] for key in near)


@cache
def known_cards() -> Mapping[str, Card]:
    """Return every card by the names to type: "rtx3060", "rtx3060-8gb", "rtx4090-laptop", "m3max"."""
    found: dict[str, Card] = {}
    for name, backend, sizes, sixteenths in _rows():
        typed = _plain(name).replace("laptop", "-laptop")
        for size in sizes:
            card = Card(name, backend, size * _GIB * sixteenths // 16)
            found.setdefault(typed, card)
            found[f"{typed}-{size}gb"] = card
    return found | {_plain(name): Card(f"Apple {name}", "MTL", None) for name in _APPLE}


def _rows() -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """Name, backend, GiB, and how many sixteenths of them can be used, of each card with memory of its own."""
    for backend, form, table, sixteenths in (
        ("CUDA", "NVIDIA GeForce {}", _GEFORCE, 16),
        ("CUDA", "NVIDIA GeForce {} Laptop GPU", _GEFORCE_LAPTOP, 16),
        ("CUDA", "NVIDIA {}", _NVIDIA_WORKSTATION, 16),
        ("CUDA", "NVIDIA {}", _NVIDIA_CENTRE, 16),
        ("CUDA", "NVIDIA {}", _NVIDIA_CENTRE_GDDR, 15),
        ("ROCm", "AMD Radeon {}", _RADEON, 16),
        ("ROCm", "AMD Instinct {}", _INSTINCT, 16),
        ("Vulkan", "Intel Arc {}", _ARC, 16),
    ):
        for name, sizes in table.items():
            yield form.format(name), backend, sizes, sixteenths


@cache
def _by_key() -> Mapping[str, Card]:
    return {_key(name): card for name, card in known_cards().items()}


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub("", text.lower()))


def _key(text: str) -> str:
    return _SERIES.sub("", _plain(text).replace("gib", "gb"))
