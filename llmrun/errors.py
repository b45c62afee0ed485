"""What can go wrong, as one tree.

    LLMRunError                 exit  HTTP
    ├── UsageError                 2   400   what was asked for makes no sense
    ├── InsufficientMemoryError    3   507   it would not fit, or the allocation was refused
    ├── HubError                   4   502   the Hub, or a download from it, failed
    │   ├── UnreachableError       4   503   it gave no answer
    │   ├── GatedError             4   403   the owner gives the model to those who asked for it
    │   ├── ChecksumError          4   502   what came is not what the Hub says it should be
    │   └── DiskFullError          4   507   there is no room for the file
    ├── NotFoundError              5   404   no such file or model
    ├── GGUFError                  6   422   the file is not what it should be, or not supported
    │   └── UnknownArchitectureError  6  422   our arithmetic does not know this architecture
    ├── EngineError                7   500   the engine failed
    │   ├── ContextOverflowError   7   400   the prompt is longer than the context
    │   ├── QuestionTooLargeError  7   500   what settings would take cannot be asked of the engine
    │   ├── WorkerDiedError        7   500   the engine's process is gone
    │   │   └── LenderLostError    7   503   with the machine that lent it a device
    │   ├── ServerGoneError        7   502   the server that was to answer is gone
    │   └── BusyError              7   503   the memory for it is in use just now
    │       └── QueueFullError     7   429   as many wait for the model as may
    ├── HistoryError               8   500   conversations cannot be kept, or read
    ├── IncompleteAnswerError      9   500   an answer that was to have a structure was cut off
    └── RefusedError               2   403   a server does not answer such a request
        ├── UnauthorizedError      2   401   it came with none of the server's keys
        ├── TooSlowError           2   408   it was not sent in time
        ├── BodyTooLargeError      2   413   it has more bytes than are taken
        │   └── HeadTooLargeError  2   431   its head alone has
        ├── MediaTypeError         2   415   it is not JSON, or does not say so
        ├── MisdirectedError       2   421   it is for a host that this server is not
        ├── RateError              2   429   the key's requests came too fast
        └── OverloadedError        2   503   there is no room for it now

A message says what happened with the value, and why with the numbers; the hint says what to type next. retry_after:
seconds after which it is worth to ask a server again, where that is known.
This module knows nothing of where errors come from or how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


class LLMRunError(Exception):
    """Base of every error a user can cause or meet; `str()` of it is the message, without the hint."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retry_after: float | None = None

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LLMRunError):
    """The command line or the request makes no sense."""

    exit_code = 2
    http_status = 400


@dataclass(frozen=True, slots=True)
class Refusal:
    """An allocation that was refused.

    device: as settings name it, None is the host. bytes_asked: of the one buffer that was refused, others may have been
    granted before. what: the part of the footprint it belongs to. None is what the engine did not say.
    """

    device: str | None
    bytes_asked: int | None
    what: Literal["weights", "kv_cache", "compute"] | None


class InsufficientMemoryError(LLMRunError):
    """What was asked for does not fit into memory; `refusal` is what the engine was refused, where it was asked."""

    exit_code = 3
    http_status = 507

    def __init__(self, message: str, hint: str | None = None, refusal: Refusal | None = None) -> None:
        super().__init__(message, hint)
        self.refusal = refusal


class HubError(LLMRunError):
    """The Hugging Face Hub, or a download from it, failed."""

    exit_code = 4
    http_status = 502


class UnreachableError(HubError):
    """The Hub gave no answer: it is down, the network is, or we are to be offline."""

    http_status = 503


class GatedError(HubError):
    """The model is only for those whom its owner lets have it."""

    http_status = 403


class ChecksumError(HubError):
    """The bytes that came are not those the Hub says the file has."""


class DiskFullError(HubError):
    """There is no room for a file where it is to lie."""

    http_status = 507


class NotFoundError(LLMRunError):
    """The named file or model does not exist."""

    exit_code = 5
    http_status = 404


class GGUFError(LLMRunError):
    """The file is not a GGUF model, is damaged, or is of a kind the engine cannot run."""

    exit_code = 6
    http_status = 422


class UnknownArchitectureError(GGUFError):
    """The arithmetic does not know this architecture, or a trait of this file; the installed engine can be asked."""


class EngineError(LLMRunError):
    """The engine failed at something it should have been able to do."""

    exit_code = 7
    http_status = 500


class ContextOverflowError(EngineError):
    """The prompt does not fit into the context."""

    http_status = 400


class QuestionTooLargeError(EngineError):
    """What these settings would take cannot be asked of the engine: asking would take too much itself."""


class WorkerDiedError(EngineError):
    """The engine's process ended.

    log: its last lines, oldest first. signal: the number of the signal that ended it, None where none did; 9 (SIGKILL)
    is also how the system kills for want of memory. refusal: the allocation it died of, where it said so. said,
    thoughts: what had come of an answer by then, where who collects it says so.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        log: tuple[str, ...] = (),
        signal: int | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.log = log
        self.signal = signal
        self.refusal = refusal
        self.said = self.thoughts = ""


class LenderLostError(WorkerDiedError):
    """The engine's process ended because machines that lent it devices are lost to it; the model may do without them.

    lenders: those machines, each as "rpc:HOST:PORT"; none where a server tells of its own.
    """

    http_status = 503
    retry_after = 5.0

    def __init__(
        self, message: str, hint: str | None = None, lenders: tuple[str, ...] = (), log: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint, log)
        self.lenders = lenders


class ServerGoneError(EngineError):
    """A server of llmrun does not answer, or went away in the middle of an answer."""

    http_status = 502


class BusyError(EngineError):
    """The memory that the model needs is in use by answers of others; it is worth asking again, retry_after says when.

    retry_after: seconds.
    """

    http_status = 503

    def __init__(self, message: str, hint: str | None = None, retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class QueueFullError(BusyError):
    """As many requests wait for the model as may."""

    http_status = 429


class HistoryError(LLMRunError):
    """Conversations cannot be kept, or those that were kept cannot be read."""

    exit_code = 8
    http_status = 500


class IncompleteAnswerError(LLMRunError):
    """An answer that was to follow a schema or a grammar was cut off before it did; what there is of it was printed."""

    exit_code = 9


class RefusedError(LLMRunError):
    """A server does not answer such a request, or not to who sent it."""

    exit_code = 2
    http_status = 403


class UnauthorizedError(RefusedError):
    """The request came with no key, or with none of the server's."""

    http_status = 401


class TooSlowError(RefusedError):
    """The request was not sent within the time that it is given."""

    http_status = 408


class BodyTooLargeError(RefusedError):
    """The request has more bytes than the server takes."""

    http_status = 413


class HeadTooLargeError(BodyTooLargeError):
    """The request's head, its headers and path, has more bytes than the server takes."""

    http_status = 431


class MediaTypeError(RefusedError):
    """The body is not JSON, or does not say that it is."""

    http_status = 415


class MisdirectedError(RefusedError):
    """The request is for a host that this server is not: its address may have been given another name to reach it."""

    http_status = 421


class RateError(RefusedError):
    """The requests of a key came faster than they may; it may ask again after `retry_after` seconds."""

    http_status = 429

    def __init__(self, message: str, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class OverloadedError(RateError):
    """There is no room for the request now, whoever sends it."""

    http_status = 503
