"""How many tokens each prompt gets of a step. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# Tokens of one prompt that are read at once, where many wait: of 8 prompts of 128 tokens (0.6B, Q4_K_M, AVX2) steps of
# 16 of each took 8.2 s, of 64 of two by turns 7.6, as long as one prompt after the other.
PORTION = 64
# The fewest tokens of a step that only reads. With flash attention llama.cpp's CPU code looks back with a tile of 64
# tokens at once, and with fewer of them token by token (ggml-cpu/ops.cpp, GGML_FA_TILE_Q): 3,072 tokens in, 64 took
# 0.6 s and 63 took 2.8 (0.6B Q4_K_M, 2 threads). Steps that were cut to 32 for taking too long took longer so.
TILE = 64

LONG = 1.0  # seconds of a step: so that progress is seen, and a new request begins


def share(room: int, wanted: Sequence[int]) -> list[int]:
    """Divide room among prompts that want some, in the order of their turns: a portion each, then more for the first.

    Room for hardly more than a portion is not divided. Who got none has the first turn of the next step, so that a
    short prompt is read soon, however long those beside it.
    """
    shares = []
    portion = room if room <= PORTION + 1 else PORTION
    for n in wanted:
        shares.append(min(n, portion, room))
        room -= shares[-1]
    for index, n in enumerate(wanted):
        more = min(n - shares[index], room)
        shares[index] += more
        room -= more
    return shares


def next_step(n_tokens: int, seconds: float, n_most: int, *, limit: float = LONG, least: int = TILE) -> int:
    """Return how many tokens to read next, after n_tokens took so long: n_most, halved until they take `limit` seconds.

    Halved, because kernels work in blocks of 32 or 64 tokens: a step of 106 reads slower than one of 128 or of 64.
    """
    step = n_most
    while step > least and step * seconds > n_tokens * limit:
        step //= 2
    return step
