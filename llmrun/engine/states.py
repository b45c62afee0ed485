"""The messages about what a context holds: written into a file, taken back from one, and the tokens it would hold.

Values only, as in `engine.protocol`, of which they are a part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write what the context holds, and what it stands for, into a file that is there, from byte `offset` on.

    path: as in Load. limit: bytes that may be written at most. tokens: only these, the first ones of what the context
    holds, are written and stay in it, and nothing of a conversation beside them; None is all there is.
    """

    path: str
    offset: int
    limit: int
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RestoreState:
    """Take back what SaveState wrote, if the file's bytes from `offset` on are `size` and have this sha256."""

    path: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of a prompt; negative ones stand for images.

    can_cut: whether what the context holds of it can be cut to any shorter beginning; else it holds no past to go back
    to. is_stretched: whether the context is longer than what the model was made for, which may change all positions.
    """

    tokens: tuple[int, ...]
    can_cut: bool
    is_stretched: bool


@dataclass(frozen=True, slots=True)
class StateSaved:
    """What was written: bytes from the offset on, their sha256, and how many tokens they hold.

    All of it is nothing (0, "", 0) where the context is empty, its state is larger than the limit, or the tokens that
    were to be written are not its first ones, or not to be had alone.
    """

    size: int
    sha256: str
    n_tokens: int


@dataclass(frozen=True, slots=True)
class StateRestored:
    """How many tokens the context holds again; 0 where the file is not what it should be, and the context is empty."""

    n_tokens: int
