"""One quantization of a model as files: values. Knows nothing of where files come from or what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmrun.quant import find_label


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a repository of the Hub, at one commit (40 hexadecimal digits); path is the one in the repository."""

    repo_id: str
    commit: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model, bytes; sha256 where somebody told it. name: in a repository the path in it."""

    name: str
    size: int
    origin: RemoteFile | Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A quantization of a model: its files in order, of which a split model has several.

    quant: its label, once among the variants of a model: with more of the file's name beside it where several have that
    label (`i1-Q4_K_M`), and a piece of the name in its place where the name tells none. base: the model's name, as the
    files have it; "" where nobody asked.
    """

    quant: str
    files: tuple[ModelFile, ...]
    base: str = ""

    @property
    def label(self) -> str | None:
        """The quantization the files' names tell; None where the header has to be asked."""
        return quant_in_name(self.quant)

    @property
    def path(self) -> Path:
        """The file to hand to the engine, which finds the others by their names; only of a variant that is here."""
        origin = self.files[0].origin
        assert isinstance(origin, Path), "it has to be fetched first"
        return origin

    @property
    def is_here(self) -> bool:
        """Whether its files lie on this machine."""
        return all(isinstance(file.origin, Path) for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def quant_in_name(name: str) -> str | None:
    """Return the quantization a file's name tells, the last where there are several; None where it tells none."""
    found = find_label(name)
    return found.label if found else None
