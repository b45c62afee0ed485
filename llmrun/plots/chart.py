"""What a picture of memory says, as values: bars, the line of what is free, where axes end. Nothing of how it is drawn.

Every size is bytes. Texts are as they are shown: no control characters, short enough for their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmrun.console import one_line
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.units import format_bytes

PARTS = ("weights", "KV cache", "compute", "overhead", "shared")
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20))
_TICKS = 7  # at most, on one axis
_TITLE, _LINE = 78, 124  # characters that fit across a picture
_BEYOND = 2.5  # times what is free: a bar that is longer is cut
_FAR = 5  # times the longest bar: what is free farther out than that is not on the axis


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar. name: one of PARTS, `shared` is what devices without memory of their own take of the host."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes that can be had, the reserve of them that is left free on purpose, and how that is called."""

    size: int
    reserve: int
    name: str

    @property
    def usable(self) -> int:
        """Bytes a model may take."""
        return max(0, self.size - self.reserve)


@dataclass(frozen=True, slots=True)
class Axis:
    """From nothing to `end` bytes. ticks: where it is labelled; unit: bytes that a label counts in."""

    end: int
    ticks: tuple[int, ...]
    unit: int
    unit_name: str

    def holds(self, free: Free | None) -> bool:
        """Whether the line of what is free is on it."""
        return free is not None and free.size <= self.end

    def label(self, size: int) -> str:
        """Return a size as a number of units: two decimals below ten, one below a hundred."""
        value = size / self.unit
        return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"

    def tick_label(self, tick: int) -> str:
        """Return a tick's label, as short as it can be."""
        return f"{tick / self.unit:,g}"


def parts_of(used: MemoryBreakdown, shared: int = 0) -> tuple[Part, ...]:
    """Return what is taken as the parts of a bar, those that take nothing left out."""
    sizes = (used.weights, used.kv_cache, used.compute, used.overhead, shared)
    return tuple(Part(name, size) for name, size in zip(PARTS, sizes, strict=True) if size)


def reach(totals: Iterable[int], free: int | None) -> int:
    """Return the size at which an axis ends: the longest bar, or what is free where that is not far beyond it.

    Bars far beyond what is free are cut there, the smallest excepted: those that fit are to be told apart.
    """
    sizes = list(totals) or [0]
    longest = max(1, *sizes)
    if free is None or free > _FAR * longest:
        return longest
    return max(free, min(longest, max(int(_BEYOND * free), min(sizes))))


def axis_to(end: int) -> Axis:
    """Return an axis that ends at so many bytes, labelled at round numbers of the largest unit it reaches."""
    unit_name, unit = next((known for known in _UNITS if end >= known[1]), _UNITS[-1])
    step = _step(end / unit / _TICKS)
    count = int(end / unit / step + 1e-9)
    return Axis(end, tuple(round(index * step * unit) for index in range(count + 1)), unit, unit_name)


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20 ... and of their decimal parts that is not less."""
    power = 1.0
    while power > least:
        power /= 10
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10


def free_together(pools: Sequence[tuple[str, int | None]], reserve: int) -> Free | None:
    """Return what is free in all pools, by name; None where of one of them nobody knows."""
    if any(size is None for _, size in pools):
        return None
    known = [(name, size) for name, size in pools if size is not None]
    total = sum(size for _, size in known)
    each = f" ({', '.join(f'{name} {format_bytes(size)}' for name, size in known)})" if len(known) == 2 else ""
    name = " in all" if len(known) > 2 else each
    return Free(total, reserve, f"{format_bytes(total)} free{name}")


def head_of(title: str, *lines: str) -> tuple[str, ...]:
    """Return the head of a picture: a title in one line, and what stands below it, wrapped."""
    import textwrap

    name = one_line(title)
    first = name if len(name) <= _TITLE else f"{name[: _TITLE - 1]}…"
    return (first, *(row for line in lines for row in textwrap.wrap(one_line(line), _LINE)))


def shortened(label: str, longest: int) -> str:
    """Return a label for its place: of a long one its end, which is where files differ."""
    text = one_line(label)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"
