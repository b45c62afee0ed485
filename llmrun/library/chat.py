"""A conversation with a loaded model, for programs: questions in, chunks or whole answers out.

Knows the engine and what has been said; prints nothing, and drops nothing of a conversation on its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llmrun.engine.protocol import Chunk, FinishReason, Generate, ModelInfo, PrefillProgress, Usage
from llmrun.errors import EngineError, UsageError
from llmrun.library.model_plan import ModelPlan
from llmrun.library.options import AnswerOptions, AnswerWish, check_names
from llmrun.message import Message
from llmrun.report import usage_figures

if TYPE_CHECKING:
    from typing import Unpack

    from llmrun.pipeline import Started

_ROLES = ("system", "user", "assistant")
AnyMessage = Message | Mapping[str, str]
AnyPath = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `str()` of it is its text.

    thoughts: the reasoning before it, of a model that thinks. finish_reason: "stop", or "length" after max_tokens,
    "context" where that is full, "cancelled".
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    thoughts: str = ""

    def __str__(self) -> str:
        return self.text


class Chat:
    """A loaded model and a conversation with it, as `llmrun.load` returns it; `close` it, or use it in a `with`.

    An answer that raises leaves the conversation as it was; of one that is ended early, what was written stays in it.
    Nothing is ever dropped from a conversation: one that is longer than the context raises ContextOverflowError, and
    `clear` or a shorter `messages` makes room.

    The model is in a process of its own, so many chats can be open at once. One chat is for one thread at a time:
    threads that share it need a lock around each whole answer.

        >>> import llmrun
        >>> chat = llmrun.load("guide", temperature=0)
        >>> chat.system = "you are a friendly guide"
        >>> print(chat.ask("can i run a model without a gpu?", max_tokens=6))
        CPU-only running works, no
        >>> [message.role for message in chat.messages]
        ['user', 'assistant']
        >>> chat.stats["completion_tokens"]
        6
        >>> chat.close()
    """

    def __init__(self, model: str, started: Started, wish: AnswerWish, system: str | None = None) -> None:
        """Chats are made by `llmrun.load`; raises UsageError for a wish about thinking that the model cannot fulfil.

        notice: what was chosen about thinking that nobody asked for.
        """
        self.system = system
        assert started.engine.info is not None  # pipeline.start returns loaded engines
        self.notice = wish.thinking(started.engine.info, started.plan.decode).notice
        self._plan = ModelPlan(model, started.planned)
        self._started, self._wish = started, wish
        self._messages: tuple[Message, ...] = ()
        self._turn: _Turn | None = None
        self._usage: Usage | None = None
        self._closed = False

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._messages)} messages"
        return f"<Chat with {self._plan.model}, {self._plan.quant}, {state}>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """What has been said, without the system message; can be set."""
        return self._messages

    @messages.setter
    def messages(self, messages: Iterable[AnyMessage]) -> None:
        """Go on with another conversation; raises UsageError for a message that cannot be one."""
        self._messages = tuple(map(_message, messages))
        if self._turn is not None:
            self._turn.is_over = True  # what is still being written belongs to the conversation before

    @property
    def plan(self) -> ModelPlan:
        """How the model is run, and why so."""
        return self._plan

    @property
    def info(self) -> ModelInfo:
        """The model as it was loaded: its name, its size, its context in tokens."""
        info = self._started.engine.info
        assert info is not None  # pipeline.start returns loaded engines
        return info

    @property
    def stats(self) -> dict[str, int | float | None]:
        """Tokens, seconds and tokens a second of the last answer, as `llmrun run --json` tells them; {} before it."""
        return {} if self._usage is None else usage_figures(self._usage)

    def stream(
        self, text: str, images: Iterable[AnyPath] = (), **how: Unpack[AnswerOptions]
    ) -> Generator[Chunk, None, None]:
        """Ask, and yield the answer as it comes; the last chunk has the finish reason and the usage.

        Chunks with `thought` are reasoning before the answer. images: files, for a model that was loaded with a
        projector. how: see AnswerOptions. Leaving the loop, or `close` of what this returns, ends the answer within a
        token; so does asking anew. Raises ContextOverflowError for a conversation that is too long, WorkerDiedError or
        EngineError where the engine fails, UsageError for options that make no sense.
        """
        return self._answer(_Turn(_question(text, images)), self._wished("stream", how))

    def ask(self, text: str, images: Iterable[AnyPath] = (), **how: Unpack[AnswerOptions]) -> Reply:
        """Ask, and return the whole answer; images, how, and what it raises: see `stream`."""
        return _whole(self._answer(_Turn(_question(text, images)), self._wished("ask", how)))

    def generate(self, messages: Iterable[AnyMessage], **how: Unpack[AnswerOptions]) -> Generator[Chunk, None, None]:
        """Yield the answer to a conversation that is kept elsewhere; `messages` and `system` have no part in it.

        messages: Message, or {"role": ..., "content": ...}, with "thoughts" where there were some. Where it begins as
        the last one did, that is not read again. how, and what it raises: see `stream`.
        """
        conversation = tuple(map(_message, messages))
        return self._answer(_Turn(None), self._wished("generate", how), conversation)

    def clear(self) -> None:
        """Forget what has been said; the system message stays."""
        self.messages = ()

    def close(self) -> None:
        """End the model's process, and free its memory."""
        self._closed = True
        self._started.engine.close()

    def _wished(self, function: str, how: AnswerOptions) -> Generate:
        """Return what is asked, still without messages."""
        check_names(f"Chat.{function}", how, AnswerOptions)
        if self._closed:
            raise UsageError("the chat is closed", "llmrun.load(...) opens another")
        return self._wish.changed(how).request(self.info, self._started.plan.decode)

    def _answer(
        self, turn: _Turn, asked: Generate, conversation: tuple[Message, ...] = ()
    ) -> Generator[Chunk, None, None]:
        self._end_turn()
        self._turn = turn
        answer = self._started.engine.answer(replace(asked, messages=self._said(turn) or conversation))
        try:
            for event in answer:
                if isinstance(event, PrefillProgress):
                    continue
                turn.chunks.append(event)
                if event.finish_reason is not None:
                    for _ in answer:  # the engine has one more word to say, and nobody need come back for it
                        pass
                    self._finish(turn, event.usage)
                yield event
                if turn.is_over and event.finish_reason is None:
                    return  # something else was asked meanwhile
        except GeneratorExit:
            if not turn.is_over:
                self._end_turn()
            raise
        except BaseException:
            turn.is_over = True
            raise
        finally:
            with contextlib.suppress(EngineError):  # whoever asks next is told
                answer.abandon()

    def _said(self, turn: _Turn) -> tuple[Message, ...]:
        """Return the conversation with the question, nothing where it is kept elsewhere."""
        if turn.question is None:
            return ()
        if self.system is not None:
            _check_text("the system message", self.system)
        first = (Message("system", self.system),) if self.system else ()
        return (*first, *self._messages, turn.question)

    def _finish(self, turn: _Turn, usage: Usage | None) -> None:
        self._usage = usage
        if usage is not None:
            self._started.record(usage)
        turn.is_over = True
        self._messages += turn.messages

    def _end_turn(self) -> None:
        """End a turn that was left: what was written of its answer stays."""
        turn = self._turn
        if turn is not None and not turn.is_over:
            turn.is_over = True
            self._messages += turn.messages if turn.has_begun else ()


@dataclass(slots=True)
class _Turn:
    """A question, None where the conversation is kept elsewhere, and what has been written of its answer."""

    question: Message | None
    chunks: list[Chunk] = field(default_factory=list)
    is_over: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether something of the answer itself is there; thoughts alone are none."""
        return any(chunk.text and not chunk.thought for chunk in self.chunks)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question with what was written, for the conversation; nothing where that is kept elsewhere."""
        if self.question is None:
            return ()
        return (self.question, Message("assistant", _text(self.chunks), _text(self.chunks, thought=True)))


def _whole(answer: Iterable[Chunk]) -> Reply:
    chunks = list(answer)
    last = chunks[-1] if chunks else None
    if last is None or last.finish_reason is None or last.usage is None:
        raise EngineError("the engine ended an answer without saying why")
    return Reply(_text(chunks), last.finish_reason, last.usage, _text(chunks, thought=True))


def _text(chunks: Iterable[Chunk], *, thought: bool = False) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.thought == thought)


def _question(text: str, images: Iterable[AnyPath]) -> Message:
    from llmrun.images import read_images

    _check_text("a question", text)
    return Message("user", text, images=tuple(image.path for image in read_images([Path(path) for path in images])))


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{what} is of type {type(text).__name__}, and must be a text")


def _message(message: AnyMessage) -> Message:
    """Return a message as the engine takes it; raises UsageError for a role or a key there is not."""
    if isinstance(message, Mapping):
        if not {"role", "content"} <= message.keys() <= {"role", "content", "thoughts"}:
            raise UsageError(f"a message has {', '.join(message) or 'nothing'}, and must have role and content")
        message = Message(message["role"], message["content"], message.get("thoughts", ""))
    for name, text in (("content", message.content), ("thoughts", message.thoughts)):
        if not isinstance(text, str):
            raise UsageError(f"a message's {name} is of type {type(text).__name__}, and must be a text")
    if message.role not in _ROLES:
        raise UsageError(f"a message's role is {message.role!r}, and must be one of {', '.join(_ROLES)}")
    return message
