"""A model that another program keeps: a value. llmrun reads such files, and never writes where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrun.variant import ModelFile

ShelfName = Literal["ollama", "lmstudio", "llama.cpp"]
TITLES: dict[ShelfName, str] = {"ollama": "Ollama", "lmstudio": "LM Studio", "llama.cpp": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class ShelfModel:
    """One quantization of a model of another program.

    name: as that program has it, a path where it has none. files: the model's own, in order; beside: what goes with it,
    as a projector for images. quant: None where nothing tells it. repo_id: the repository of the Hub
    it is from, if that is known. last_used: seconds since 1970, None if unknown. problem: why it cannot be used here.
    """

    shelf: ShelfName
    name: str
    files: tuple[ModelFile, ...]
    quant: str | None
    last_used: float | None
    repo_id: str | None = None
    beside: tuple[ModelFile, ...] = ()
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in (*self.files, *self.beside))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where its own files lie."""
        return tuple(file.origin for file in self.files if isinstance(file.origin, Path))

    @property
    def reference(self) -> str:
        """What to type for it."""
        return self.name if self.shelf == "llama.cpp" else f"{self.shelf}:{self.name}"
