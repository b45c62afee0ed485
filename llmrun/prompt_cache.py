"""What one run takes from the cache of prompts, and what it leaves there: the beginning of a prompt, read once.

Before the answer the longest beginning that some earlier run read is given back to the engine; after it, what was new
is kept. Where a memory cannot be cut (recurrent states, sliding windows), what will begin other prompts too must be
kept at the moment when just that is read, so it is read and kept before the rest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, Usage
from llmrun.engine.states import PromptTokens
from llmrun.message import RawPrompt
from llmrun.prompt_files import LEAST_TOKENS, PromptFiles, common_beginning, pack
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.states import state_key

# At the seam of two texts a token may reach into the second: the last ones of what two prompts share are not believed.
_SEAM = 2


@dataclass(frozen=True, slots=True)
class Taken:
    """What was found for a prompt: tokens that it shares with a file, and the seconds that taking them back took.

    read: what was read before the answer so that it could be kept, None where nothing had to be.
    """

    n_tokens: int = 0
    seconds: float = 0.0
    read: Usage | None = None

    def counted(self, usage: Usage) -> Usage:
        """Return the usage of the answer with what was read for it before: that was read, and not cached."""
        if self.read is None:
            return usage
        return replace(
            usage,
            cached_tokens=self.read.cached_tokens,
            read_tokens=self.read.read_tokens + usage.read_tokens,
            prompt_seconds=self.read.prompt_seconds + usage.prompt_seconds,
        )


@dataclass(frozen=True, slots=True)
class Left:
    """What was kept: tokens, bytes, and the seconds that it took."""

    n_tokens: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Tokens that are to be kept under a key."""

    key: str
    tokens: tuple[int, ...]


class PromptCache:
    """The cache as one loaded model sees it. key: `prompt_key`'s; None takes nothing and leaves nothing."""

    def __init__(self, engine: Engine, key: str | None, files: PromptFiles) -> None:
        self.engine, self._key, self._files = engine, key, files
        self._wanted: _Wanted | None = None  # what is to be kept after the answer

    def take(
        self, request: Generate, alike: Generate | None = None, read: Callable[[Generate], Usage] | None = None
    ) -> Taken:
        """Give the engine what is kept of a request's prompt; raises what tokenizing and the worker's death raise.

        alike: another request that begins as later ones will. read: how the engine is let read what a request has, for
        who shows the wait; None is without a word.
        """
        self._wanted = None
        if self._key is None or any(message.images for message in request.messages):
            return Taken()
        prompt = self.engine.tokenize(request)
        if len(prompt.tokens) < LEAST_TOKENS:
            return Taken()
        key = _whole_key(self._key, prompt)
        n_tokens, seconds = self._restore(key, prompt)
        if prompt.can_cut:
            self._wanted = self._new(_Wanted(key, prompt.tokens), can_cut=True)
            return Taken(n_tokens, seconds)
        usage = self._read_shared(key, prompt, alike, read or self._read)
        return Taken(n_tokens, seconds, usage)

    def leave(self, usage: Usage) -> Left | None:
        """Keep what was new of the prompt, if that is worth a file; None where nothing was kept.

        usage: of the answer. From here on the engine holds no more than the prompt.
        """
        wanted, self._wanted = self._wanted, None
        return None if wanted is None or self.engine.has_ended else self._keep(wanted, usage)

    def _restore(self, key: str, prompt: PromptTokens) -> tuple[int, float]:
        n_ctx = 0 if self.engine.info is None else self.engine.info.n_ctx
        found = self._files.find(key, prompt.tokens, n_ctx, can_cut=prompt.can_cut)
        if found is None:
            return 0, 0.0
        started = time.perf_counter()
        n_tokens = self._files.restore(self.engine, found)
        return min(n_tokens, found.n_common), time.perf_counter() - started

    def _new(self, wanted: _Wanted, *, can_cut: bool) -> _Wanted | None:
        """Return what is wanted where enough of it is new."""
        covered = self._files.covered(wanted.key, wanted.tokens, can_cut=can_cut)
        return wanted if len(wanted.tokens) - covered >= LEAST_TOKENS else None

    def _read_shared(
        self, key: str, prompt: PromptTokens, alike: Generate | None, read: Callable[[Generate], Usage]
    ) -> Usage | None:
        """Read what later prompts will have too, and keep it there and then."""
        shared = () if alike is None else _shared(prompt.tokens, self.engine.tokenize(alike).tokens)
        wanted = self._new(_Wanted(key, shared), can_cut=False)
        if wanted is None:
            return None
        usage = read(Generate((), Sampling(temperature=0), max_tokens=1, raw=RawPrompt("", tokens=shared)))
        self._keep(wanted, usage)
        return usage

    def _read(self, request: Generate) -> Usage:
        last = [event for event in self.engine.answer(request) if isinstance(event, Chunk)][-1]
        assert last.usage is not None  # the last chunk has it
        return last.usage

    def _keep(self, wanted: _Wanted, usage: Usage) -> Left | None:
        started = time.perf_counter()
        token_seconds = usage.prompt_seconds / max(1, usage.read_tokens)
        size = self._files.keep(self.engine, wanted.key, wanted.tokens, token_seconds)
        return Left(len(wanted.tokens), size, time.perf_counter() - started) if size else None


def prompt_key(files: Iterable[Path], settings: RunSettings) -> str | None:
    """Name what a prompt's state can be used with: `states.state_key`, with contexts of any length."""
    return state_key(files, replace(settings, n_ctx=None))


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    n = common_beginning(pack(one), pack(other))
    return one[: max(0, n - _SEAM)]


def _whole_key(key: str, prompt: PromptTokens) -> str:
    return hashlib.sha256(f"{key} {prompt.is_stretched}".encode()).hexdigest()
