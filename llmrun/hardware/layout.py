"""Layouts of its own in which a CPU keeps weights to compute faster, and what a matrix takes in one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Buffers = Literal["CPU_REPACK", "AMX"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight that activations are multiplied by, so that the CPU may repack it; ne0 are its columns, ne1 its rows.

    size: bytes, padded. n_blocks: of its type. is_expert: one of a layer's many, of which each token uses a few.
    is_stack: several in one tensor, of which each token uses all.
    """

    type: str
    rows: int
    columns: int
    n_blocks: int
    size: int
    is_expert: bool = False
    is_stack: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """rows, columns: what a matrix must have a multiple of. more: bytes beyond the type's own, in each of its blocks.

    buffers: what llama.cpp calls the memory that is kept for it; AMX's takes no experts, only AMX's takes stacks.
    """

    rows: int
    columns: int = 1
    more: int = 0
    buffers: Buffers = "CPU_REPACK"

    def takes(self, matrix: Matrix) -> bool:
        """Tell whether a matrix of the right type is kept in it."""
        fits = matrix.rows % self.rows == 0 and matrix.columns % self.columns == 0
        return fits and not (matrix.is_expert if self.buffers == "AMX" else matrix.is_stack)


# By type those that llama.cpp tries, the first of which takes a matrix.
Layouts = Mapping[str, tuple[Layout, ...]]


def in_amx(layouts: Layouts) -> frozenset[str]:
    """Return the types that AMX's buffers take, of matrices that are no experts."""
    return frozenset(name for name, kept in layouts.items() if any(layout.buffers == "AMX" for layout in kept))


def layout_of(matrix: Matrix, layouts: Layouts) -> Layout | None:
    """Return the layout that a matrix is kept in, None where it stays as it is in the file."""
    return next((layout for layout in layouts.get(matrix.type, ()) if layout.takes(matrix)), None)
