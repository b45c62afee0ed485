"""A model that a server of this user's has loaded already, as an engine: asked over HTTP, nothing loaded here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from llmrun.engine.client import Answer, StartTimes
from llmrun.engine.protocol import (
    Chunk,
    Event,
    Failed,
    Generate,
    ModelInfo,
    Phase,
    PrefillProgress,
    TokenCounts,
    Usage,
)
from llmrun.engine.states import StateSaved
from llmrun.engine.wire import error_of
from llmrun.errors import LLMRunError, ServerGoneError
from llmrun.message import Message
from llmrun.sampling import MAX_SEED
from llmrun.servers.client import LineStream, ServerClient
from llmrun.servers.control import (
    ANSWER,
    CANCEL,
    COUNT,
    INFO,
    AnswerWish,
    CancelWish,
    CountWish,
    Done,
    ModelWish,
    ServedModel,
)

_PATIENCE = 3.0  # seconds that a server may take to hear of it


class RemoteEngine:
    """One of a server's models, by the name that the server has for it; loaded there, if it is not yet.

    Raises what loading raises there, and ServerGoneError. What the server has in memory is for the server to keep: a
    state can neither be written nor taken back.
    """

    def __init__(self, client: ServerClient, name: str) -> None:
        self._client, self._name = client, name
        self.served = client.ask(INFO, ServedModel, ModelWish(name))
        self.info: ModelInfo | None = self.served.info
        self.times: StartTimes | None = None
        self._last: Answer | None = None
        self._is_gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """Whether the server was found to be gone, so that another engine is needed."""
        return self._is_gone

    def answer(self, request: Generate) -> Answer:
        """Start answering; iterate over what this returns. An earlier answer that was left unread is ended first."""
        self._end_last_answer()
        if request.sampling.seed is None:  # drawn here, so that an answer that is broken off can say it
            drawn = secrets.randbelow(MAX_SEED + 1)
            request = replace(request, sampling=replace(request.sampling, seed=drawn))
        key = secrets.token_hex(16)
        try:
            stream = self._client.stream(ANSWER, AnswerWish(key, self._name, _with_whole_paths(request)))
        except ServerGoneError:
            self._is_gone = True
            raise
        events = _Events(stream, request, lambda: self._cancel(key, stream), self._lose)
        self._last = Answer(events.next, events.cancel)
        return self._last

    def count(self, messages: Sequence[Message]) -> TokenCounts:
        """Count the tokens of a conversation, as the model would read it."""
        self._end_last_answer()
        try:
            return self._client.ask(COUNT, TokenCounts, CountWish(self._name, tuple(messages)))
        except ServerGoneError:
            self._is_gone = True
            raise

    def save_state(self, path: Path, offset: int, limit: int) -> StateSaved:
        """Write nothing: the memory is the server's."""
        del path, offset, limit
        return StateSaved(0, "", 0)

    def restore_state(self, path: Path, offset: int, size: int, sha256: str) -> int:
        """Take nothing back: the memory is the server's."""
        del path, offset, size, sha256
        return 0

    def close(self) -> None:
        """End an answer that is not over; the model stays where it is."""
        self._end_last_answer()

    def _cancel(self, key: str, stream: LineStream) -> None:
        """Ask for the end of an answer; where the server does not listen the connection is closed, which it hears."""
        try:
            self._client.ask(CANCEL, Done, CancelWish(key), _PATIENCE)
        except LLMRunError:
            stream.break_off()

    def _end_last_answer(self) -> None:
        if self._last is not None:
            self._last.abandon()
            self._last = None

    def _lose(self) -> None:
        self._is_gone = True


class _Events:
    """What an answer is made of, as an engine's process would tell it.

    Where the server is gone before it could say how an answer that was cancelled ended, it is said here.
    """

    def __init__(
        self, stream: LineStream, request: Generate, end: Callable[[], None], lose: Callable[[], None]
    ) -> None:
        self._stream, self._request, self._stop, self._lose = stream, request, end, lose
        self._begun = time.perf_counter()
        self._prefill = PrefillProgress(0, 0, 0, 0.0)
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._is_cancelled = False
        self._is_over = False

    def next(self) -> Event:
        """Wait for the next event; raises ServerGoneError, or what the engine failed with."""
        if self._is_over:
            return Phase("idle")
        try:
            event: Event = self._stream.next()
        except ServerGoneError:
            self._end()
            if self._is_cancelled:
                return Chunk("", "cancelled", self._usage())
            self._lose()
            raise
        except BaseException:
            self._end()
            raise
        return self._heard(event)

    def cancel(self) -> None:
        """Let the server know that no more is wanted."""
        if not self._is_over:
            self._is_cancelled = True
            self._stop()

    def _heard(self, event: Event) -> Event:
        match event:
            case Failed():
                self._end()
                raise error_of(event)
            case Phase(name="idle"):
                self._end()
            case PrefillProgress():
                self._prefill = event
            case Chunk():
                (self._thoughts if event.thought else self._text).append(event.text)
        return event

    def _end(self) -> None:
        self._is_over = True
        self._stream.close()

    def _usage(self) -> Usage:
        """What it took, as far as it was seen, where nobody tells: a piece of text is a token, or some more."""
        seen, n_thought = self._prefill, sum(map(bool, self._thoughts))
        return Usage(
            prompt_tokens=seen.total,
            cached_tokens=seen.cached,
            read_tokens=seen.done - seen.cached,
            completion_tokens=n_thought + sum(map(bool, self._text)),
            prompt_seconds=seen.seconds,
            completion_seconds=max(0.0, time.perf_counter() - self._begun - seen.seconds),
            seed=self._request.sampling.seed or 0,
            thought_tokens=n_thought,
        )


def _with_whole_paths(request: Generate) -> Generate:
    """Name the files of images so that a process in another folder finds them."""
    messages = tuple(
        replace(message, images=tuple(str(Path(path).absolute()) for path in message.images))
        if message.images
        else message
        for message in request.messages
    )
    return replace(request, messages=messages)
