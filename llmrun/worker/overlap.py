"""Where the tokens of a new prompt stand among those of the last one, when something between was dropped. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A stretch shorter than this is read again: template text alone (an end of a turn, the next role) must not decide.
LEAST = 64
# And so is one of less than this part of the context: keys are rotated in all cells, whether or not they move. Some
# 40 µs a cell with a 0.6B shape on one core, of which to read a token again takes 6 ms or more; llama.cpp's presets for
# n_cache_reuse say 256 tokens (common/arg.cpp), which is this part of 8,192.
LEAST_OF_CONTEXT = 1 / 32
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Move:
    """n_tokens that stood at position `old` and stand at `new` in the prompt; new < old."""

    old: int
    new: int
    n_tokens: int


def common_prefix(past: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many first tokens are the same; blocks are compared first, as a token each would take long."""
    n = min(len(past), len(prompt))
    start = 0
    while start < n and list(past[start : start + _BLOCK]) == list(prompt[start : start + _BLOCK]):
        start = min(n, start + _BLOCK)
    return next((index for index in range(start, n) if past[index] != prompt[index]), n)


def least_stretch(n_ctx: int) -> int:
    """Return how many tokens must move at least, so that it is worth while in a context of n_ctx."""
    return max(LEAST, int(n_ctx * LEAST_OF_CONTEXT))


def find_moves(past: Sequence[int], prompt: Sequence[int], start: int, least: int) -> list[Move]:
    """Return the moves that make of `past` a longer beginning of `prompt` than their common prefix, `start`, in order.

    Each is the longest stretch of what is left of the past that goes on with the prompt. Linear in both lengths, times
    the number of moves.
    """
    moves: list[Move] = []
    old, new = start, start
    while len(past) - old >= least and len(prompt) - new >= least:
        lengths = _matches(prompt[new:], past[old:])
        longest = max(lengths)
        if longest < least:
            break
        offset = lengths.index(longest)
        moves.append(Move(old + offset, new, longest))
        old, new = old + offset + longest, new + longest
    return moves


def _matches(pattern: Sequence[int], text: Sequence[int]) -> list[int]:
    """Return for each position of text how many tokens from there on are the pattern's first ones (Z-function).

    D. Gusfield, Algorithms on Strings, Trees and Sequences (1997), section 1.3.
    """
    both = [*pattern, -1, *text]  # no token is -1
    z = [0] * len(both)
    left = right = 0
    for index in range(1, len(both)):
        n = min(right - index, z[index - left]) if index < right else 0
        while index + n < len(both) and both[n] == both[index + n]:
            n += 1
        z[index] = n
        if index + n > right:
            left, right = index, index + n
    return z[len(pattern) + 1 :]
