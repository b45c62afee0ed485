"""Images in a prompt, as values: what stands for them among its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a prompt that is an image, or a piece of one.

    id: stands in a prompt's tokens for each of its positions; negative, and the same for the same file alone. n_pos:
    positions it takes. n_cells: entries of the KV cache, which may be more. chunk: mtmd's pointer.
    """

    id: int
    n_pos: int
    n_cells: int
    chunk: Any


Pieces = tuple[int | Span, ...]
