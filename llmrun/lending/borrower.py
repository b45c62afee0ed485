"""Who borrows, from one look to the next, and what is told of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrun.lending.status import MEASURING_BYTES
from llmrun.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. client: address and port of who is connected, None is nobody. held: bytes that are lent."""

    client: tuple[str, int] | None
    held: int


@dataclass(frozen=True, slots=True)
class Borrowing:
    """Somebody's borrowing. since: seconds of a clock that never goes back; most: bytes at once; told: whether it was.

    held: bytes at the last look.
    """

    client: tuple[str, int]
    since: float
    held: int = 0
    most: int = 0
    told: bool = False


def follow(before: Borrowing | None, look: Look, now: float) -> tuple[Borrowing | None, tuple[str, ...]]:
    """Return who borrows after a look, and lines to tell; now: of the same clock as Borrowing.since.

    Who only asks what there is, or measures the way here, is not told of. What is taken is told once it stays the same
    from one look to the next.
    """
    lines: list[str] = []
    if before is not None and before.client != look.client:
        if before.told:
            lines.append(_gone(before, now))
        before = None
    if look.client is None:
        return None, tuple(lines)
    known = before or Borrowing(look.client, now)
    settled = MEASURING_BYTES < look.held == known.held
    if settled and not known.told:
        lines.append(f"{known.client[0]} has borrowed {format_bytes(look.held)}")
        known = replace(known, told=True)
    return replace(known, held=look.held, most=max(known.most, look.held)), tuple(lines)


def _gone(was: Borrowing, now: float) -> str:
    time = format_seconds(now - was.since)
    return f"{was.client[0]} has gone: it had up to {format_bytes(was.most)}, for {time}; all is free again"
