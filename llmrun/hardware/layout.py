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
    """

    type: str
    rows: int
    columns: int
    n_blocks: int
    size: int
    is_expert: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """rows, columns: what a matrix must have a multiple of. more: bytes beyond the type's own, in each of its blocks.

    buffers: what llama.cpp calls the memory that is kept for it; AMX's takes no experts.
    """

    rows: int
    columns: int = 1
    more: int = 0
    buffers: Buffers = "CPU_REPACK"

    def takes(self, matrix: Matrix) -> bool:
        """Tell whether a matrix of the right type is kept in it."""
        fits = matrix.rows % self.rows == 0 and matrix.columns % self.columns == 0
        return fits and (self.buffers != "AMX" or not matrix.is_expert)


# By type those that llama.cpp tries, the first of which takes a matrix.
Layouts = Mapping[str, tuple[Layout, ...]]


def layout_of(matrix: Matrix, layouts: Layouts) -> Layout | None:
    """Return the layout that a matrix is kept in, None where it stays as it is in the file."""
    return next((layout for layout in layouts.get(matrix.type, ()) if layout.takes(matrix)), None)


def may_repack(layouts: Layouts) -> bool:
    """Tell whether a model may be run with its weights in them: there are some, and AMX's are not among them.

    GCC 12.2 leaves out most of what llama.cpp's AMX code writes into the configuration of its tiles (its
    amxtileintrin.h tells the compiler of 8 bytes alone), and the process dies at the first quantized matrix; newer ones
    were not tried. Whoever compiled it, it aborts where multi-head latent attention multiplies by stacks of matrices
    (0c1e57098, ggml-cpu/amx/amx.cpp, supports_op takes them).
    """
    return bool(layouts) and not any(layout.buffers == "AMX" for kept in layouts.values() for layout in kept)
