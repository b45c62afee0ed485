"""Machines that are not here, in words: what `--on` understands. Knows nothing of this machine."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import UsageError
from llmrun.hardware.cards import Card, find_card, nearest_cards
from llmrun.hardware.cores import numbered_cores
from llmrun.hardware.cpu import CpuInfo
from llmrun.hardware.device import UNIFIED_BACKENDS, Device
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import Host
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.profile import read_profile
from llmrun.hardware.threads import plan_threads
from llmrun.settings import MAX_THREADS
from llmrun.units import format_bytes, parse_bytes

_MIB, _GIB = 1 << 20, 1 << 30

_EXAMPLES = "write it as rtx4090+64GiB, 2xrtx3090+128GiB, m3max+64GiB, ram=16GiB,vram=8GiB or profile.json"
_KEYS = ("ram", "free", "vram", "unified", "cores")
_DEFAULT_CORES = 8
_MAX_DEVICES = 16  # llama.cpp 0c1e57098, llama_max_devices()

# What a system with a desktop and a browser takes of its RAM: of small ones a fifth, of large ones 4 GiB. Nobody's
# rule, and on the safe side of what we saw: Windows 11 and macOS idle at 3 to 4 GiB, Linux with a desktop at 1.5 to 2,
# without one at 1 (2026-11, Debian 12, 24 GiB).
_SYSTEM_PART, _SYSTEM_MOST = 5, 4 * _GIB

# What a card's driver and its desktop take of its memory: of small ones a sixteenth, of large ones 512 MiB. Without a
# desktop NVIDIA's keeps some 300 to 600 MiB; with Windows' more: 11312 MiB of 12 GiB were free on a 3080 Ti in desktop
# use, 23042 of 24563 on a 4090 D (logs of llama.cpp and of ollama issue 8923). The plan's reserve comes on top.
_DRIVER_PART, _DRIVER_MOST = 16, 512 * _MIB

# How much of a Mac's memory Metal calls its recommended working set, which ggml tells as the device's memory
# (ggml-metal-device.m, recommendedMaxWorkingSetSize). Logs of llama.cpp show two thirds of 16 and 32 GiB (10922.67 and
# 21845.34 MiB), three quarters of 64 and 96 (49152 and 73728). Later macOS gives some machines more.
_METAL_SMALL = 32 * _GIB

# What every processor has that such a machine is built with: x86-64-v3, of 2015 and later, and Apple's M1
_X86 = frozenset({"pni", "ssse3", "avx", "avx2", "f16c", "fma", "bmi2"})
_APPLE = frozenset({"asimd", "asimddp", "asimdhp"})


def parse_machine(text: str) -> Hardware:
    """Return the machine that a text describes; raises UsageError for one it does not understand.

    A path (ends in .json, or has a separator in it) is a profile that `llmrun hardware --json` wrote on that machine.
    Else parts, joined by + or commas, in any order:

        rtx4090, 2xrtx3090, m3max   cards by name (`cards.known_cards`), as they come CUDA0, CUDA1 ...
        64GiB, ram=64GiB            RAM; a chip of Apple's takes its memory from it
        free=60GiB                  what of the RAM is available; else what a system of that size leaves
        vram=24GiB                  an NVIDIA card with so much memory; each one more card
        unified=32GiB               a Mac with so much memory
        cores=16                    physical cores, all of them fast; else 8
    """
    if text.lower().endswith(".json") or re.search(r"[/\\]", text):
        return read_profile(Path(text).expanduser())
    parts = [_parse_part(part.strip()) for part in re.split(r"[+,]", text)]
    cards = tuple(card for part in parts for card in part.cards)
    _check_cards(cards)
    amounts = _collect(parts)
    if "ram" not in amounts:
        raise UsageError(f"{text!r} does not say how much RAM the machine has", _EXAMPLES)
    return _build(cards, amounts["ram"], amounts.get("free"), amounts.get("cores", _DEFAULT_CORES))


@dataclass(frozen=True, slots=True)
class _Part:
    """What one part of a description says: cards, and an amount by its key."""

    cards: tuple[Card, ...] = ()
    key: str | None = None
    amount: int = 0


def _parse_part(text: str) -> _Part:
    key, given, value = (piece.strip() for piece in text.partition("="))
    if given:
        return _parse_pair(key.lower(), value)
    many = re.fullmatch(r"(\d{1,3}) ?[x×] ?(\D.*|\d{3,}.*)", text, re.IGNORECASE)
    count, name = (int(many[1]), many[2]) if many else (1, text)
    card = find_card(name)
    if card is not None:
        if not 1 <= count <= _MAX_DEVICES:
            raise UsageError(f"{text!r}: a machine has 1 to {_MAX_DEVICES} cards of a kind")
        return _Part((card,) * count)
    if re.fullmatch(r"[\d.,_]+ ?[a-z]+", text, re.IGNORECASE):
        return _Part(key="ram", amount=_positive(text, text))
    if re.fullmatch(r"[\d.]+", text):
        raise UsageError(f"{text!r} is no amount of RAM without a unit, and no card", f"write it as {text}GiB")
    near = nearest_cards(name)
    said = f"known are {', '.join(near)}; any other: vram=24GiB" if near else _EXAMPLES
    raise UsageError(f"{text!r} is no card that is known, and no amount of RAM", said)


def _parse_pair(key: str, value: str) -> _Part:
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        raise UsageError(f"{key!r} says nothing of a machine", f"known are {', '.join(near or _KEYS)}")
    if key == "cores":
        if not re.fullmatch(r"\d{1,4}", value, re.ASCII) or not 1 <= int(value) <= MAX_THREADS:
            raise UsageError(f"cores={value}: a machine has 1 to {MAX_THREADS} cores", "write it as cores=8")
        return _Part(key=key, amount=int(value))
    size = _positive(value, f"{key}={value}")
    if key == "vram":
        return _Part((Card(f"GPU of {format_bytes(size)}", "CUDA", size),))
    if key == "unified":
        return _Part((Card("Apple GPU", "MTL", None),), "ram", size)
    return _Part(key=key, amount=size)


def _positive(value: str, said: str) -> int:
    size = parse_bytes(value)
    if size < _MIB:
        raise UsageError(f"{said} is no amount of memory to plan with", "write it as 16GiB, 8GB or 512MiB")
    return size


def _collect(parts: Iterable[_Part]) -> dict[str, int]:
    """Return the amounts by key; of a description that says one of them twice nobody knows which counts."""
    amounts: dict[str, int] = {}
    for part in parts:
        if part.key in amounts:
            raise UsageError(f"{part.key} is said twice", _EXAMPLES)
        if part.key is not None:
            amounts[part.key] = part.amount
    return amounts


def _check_cards(cards: Sequence[Card]) -> None:
    if len(cards) > _MAX_DEVICES:
        raise UsageError(f"{len(cards)} devices are too many: llama.cpp takes at most {_MAX_DEVICES}")
    if len(cards) > 1 and any(card.memory is None for card in cards):
        names = " and ".join(dict.fromkeys(card.name for card in cards))
        raise UsageError(f"a Mac with a chip of Apple's has that one GPU, not {names}", "write it as m3max+64GiB")


def _build(cards: Sequence[Card], ram: int, free: int | None, cores: int) -> Hardware:
    available = ram - min(ram // _SYSTEM_PART, _SYSTEM_MOST) if free is None else free
    if available > ram:
        raise UsageError(f"of {format_bytes(ram)} of RAM, {format_bytes(available)} cannot be free")
    apple = next((card.name for card in cards if card.memory is None), None)
    cpu = CpuInfo(apple, cores, cores, None, _X86 if apple is None else _APPLE)
    host = Host(HostMemory(ram, available), cpu, plan_threads(numbered_cores(cores, cores)))
    guess = f"of {format_bytes(ram)} of RAM, {format_bytes(available)} are taken for available: free= says otherwise"
    return Hardware(host, _number(cards, ram), notes=(guess,) if free is None else ())


def _number(cards: Iterable[Card], ram: int) -> tuple[Device, ...]:
    """Return the cards as devices, each backend's counted from 0 as ggml does."""
    seen: Counter[str] = Counter()
    devices = []
    for card in cards:
        number = seen[card.backend]
        seen[card.backend] += 1
        total = _metal_memory(ram) if card.memory is None else card.memory
        kept = 0 if card.memory is None else min(total // _DRIVER_PART, _DRIVER_MOST)
        unified = card.backend in UNIFIED_BACKENDS
        devices.append(Device(f"{card.backend}{number}", card.backend, card.name, total, total - kept, unified))
    return tuple(devices)


def _metal_memory(ram: int) -> int:
    return ram * 2 // 3 if ram <= _METAL_SMALL else ram * 3 // 4
