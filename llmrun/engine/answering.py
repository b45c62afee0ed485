"""What a chat needs of an engine, wherever that is: in a process of its own, or in a server that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from llmrun.engine.client import StartTimes
from llmrun.engine.protocol import (
    Chunk,
    Generate,
    ModelInfo,
    PrefillProgress,
    TokenCounts,
)
from llmrun.engine.states import StateSaved
from llmrun.message import Message


class ComingAnswer(Protocol):
    """An answer as it comes, see engine.client.Answer."""

    def __iter__(self) -> Iterator[Chunk | PrefillProgress]:
        """Return itself."""
        ...

    def __next__(self) -> Chunk | PrefillProgress:
        """Wait for what comes next."""
        ...

    def abandon(self) -> None:
        """Cancel it, and let nothing of it be left."""
        ...

    def cancel(self) -> None:
        """Ask for the end; safe in the handler of a signal."""
        ...


class AnsweringEngine(Protocol):
    """A loaded model that answers one conversation at a time, see engine.client.Engine."""

    @property
    def info(self) -> ModelInfo | None:
        """The model as it really runs."""
        ...

    @property
    def times(self) -> StartTimes | None:
        """What starting took; None where it was running already."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether another engine is needed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def answer(self, request: Generate) -> ComingAnswer:
        """Start answering."""
        ...

    def count(self, messages: Sequence[Message]) -> TokenCounts:
        """Count the tokens of a conversation."""
        ...

    def save_state(self, path: Path, offset: int, limit: int) -> StateSaved:
        """Write what is in memory into a file; nothing where it is not this program's to write."""
        ...

    def restore_state(self, path: Path, offset: int, size: int, sha256: str) -> int:
        """Take back what was written, and return tokens; 0 where that cannot be."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...
