"""How many tokens each prompt gets of a step. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def share(room: int, wanted: Sequence[int]) -> list[int]:
    """Divide room among those who want some, alike, and what the small ones leave among the others.

    So a short prompt is read soon, however long those beside it are.
    """
    shares = [0] * len(wanted)
    smallest_first = sorted(range(len(wanted)), key=wanted.__getitem__)
    for position, index in enumerate(smallest_first):
        shares[index] = min(wanted[index], room // (len(wanted) - position))
        room -= shares[index]
    return shares


def next_step(n_tokens: int, seconds: float, n_most: int, *, limit: float = 1.0, least: int = 32) -> int:
    """Return how many tokens to read next, after n_tokens took so long: n_most, halved until they take `limit` seconds.

    Halved, because kernels work in blocks of 32 or 64 tokens: a step of 106 reads slower than one of 128 or of 64.
    """
    step = n_most
    while step > least and step * seconds > n_tokens * limit:
        step //= 2
    return step
