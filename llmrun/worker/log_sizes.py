"""The buffers of a context as llama.cpp's log tells them: in MiB with two digits, the only way where there is no table.

Pure: lines in, numbers out. While nothing is allocated the log is silent or wrong about weights and KV cache of a pool:
those are then worked out from where it says each layer goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BUFFER = re.compile(r": +(\S+) +(?:DSV4 \S+ )?(model|LoRA|KV|RS|state|compute|output) buffer size = +([\d.]+) MiB")
_MEMORY = re.compile(r"(?<!buffer )size = +([\d.]+) MiB")  # llama_kv_cache, llama_memory_recurrent, DSV4's states
_LAYER = re.compile(r"load_tensors: layer +(\d+) assigned to device ([^,]+),")
_CACHED = re.compile(r"llama_kv_cache: layer +(\d+): dev = (\S+)")
_USED = re.compile(r"using device (\S+) \(")
_FLASH = re.compile(r"Flash Attention (enabled|not supported)")
_FLASH_SETTING = re.compile(r"flash_attn +=  *(enabled|disabled)")


@dataclass(frozen=True, slots=True)
class BufferLine:
    """One buffer as the log names it: its kind and its size in bytes, a multiple of 0.01 MiB."""

    name: str
    kind: str
    size: int


def parse_buffers(lines: Sequence[str]) -> tuple[BufferLine, ...]:
    """Return the buffers a log tells of, in its order; kind is one of _BUFFER's words."""
    found = (_BUFFER.search(line) for line in lines if "buffer size" in line)  # of thousands of lines a dozen
    return tuple(BufferLine(match[1], match[2], mib(match[3])) for match in found if match)


def since_last_reserve(lines: Sequence[str]) -> list[str]:
    """Return a log without the compute buffers that were given back: adapters make a context reserve anew."""
    starts = [index for index, line in enumerate(lines) if "sched_reserve: reserving" in line]
    last = starts[-1] if starts else 0
    return [line for index, line in enumerate(lines) if index >= last or "compute buffer size" not in line]


def parse_compute(lines: Sequence[str]) -> dict[str, int]:
    """Return the bytes of the compute buffers by the name of their type.

    In a dry run every backend tells the whole buffer of its type, also where it shares that with another: an
    accelerator and the CPU have one (ggml-alloc.c, ggml_gallocr_reserve_n_size).
    """
    return {line.name: line.size for line in parse_buffers(lines) if line.kind == "compute"}


def parse_memory(lines: Sequence[str]) -> tuple[int, int, int]:
    """Return the bytes of KV caches, those of recurrent state, and how many lines they were read from."""
    caches = [mib(match[1]) for line in lines if "llama_kv_cache" in line and (match := _MEMORY.search(line))]
    states = [
        mib(match[1])
        for line in lines
        if ("llama_memory_recurrent" in line or "dsv4_comp_state" in line) and (match := _MEMORY.search(line))
    ]
    return sum(caches), sum(states), len(caches) + len(states)


def parse_flash_attn(lines: Sequence[str]) -> bool | None:
    """Return whether flash attention is used, by the last word on it; None where there is none."""
    said = [line for line in lines if "Flash Attention" in line or "flash_attn" in line]
    decided = [match[1] == "enabled" for line in said if (match := _FLASH.search(line) or _FLASH_SETTING.search(line))]
    return decided[-1] if decided else None


def parse_devices(lines: Sequence[str]) -> tuple[str, ...]:
    """Return ggml's names of the devices a model was given, in order."""
    return tuple(match[1] for line in lines if (match := _USED.search(line)))


def parse_layers(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the device of each layer, the output's last; needs the log's debug lines."""
    return tuple(match[2] for line in lines if (match := _LAYER.search(line)))


def parse_cached_layers(lines: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Return device and size in bytes of each layer's KV cache; needs the log's debug lines.

    A cache tells its layers first and its size after them; within one cache layers are taken to be alike.
    """
    found: list[tuple[str, int]] = []
    waiting: list[str] = []
    for line in lines:
        if match := _CACHED.search(line):
            waiting.append(match[2])
        elif waiting and "llama_kv_cache" in line and (match := _MEMORY.search(line)):
            found += [(device, mib(match[1]) // len(waiting)) for device in waiting]
            waiting = []
    return tuple(found)


def mib(text: str) -> int:
    """Return the bytes of a number of MiB."""
    return round(float(text) * (1 << 20))


def printed(size: int) -> str:
    """Return bytes as the log would print them."""
    return f"{size / (1 << 20):.2f}"
