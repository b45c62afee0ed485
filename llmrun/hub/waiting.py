"""A question to a server with a deadline for each thing that can take for ever: a name, a connection, an answer.

The question runs in a thread of its own, because looking up a name cannot be given a deadline; a thread that still
waits when its time is over is left behind, and ends with the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from llmrun.hub.answer import LATER
from llmrun.hub.failure import without_end
from llmrun.hub.setback import SetbackError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

CONNECT_SECONDS = 2.0  # a server that is down is said to be within this, whatever its name and addresses do meanwhile
SLOW_SECONDS = 2.0  # a server that has not answered after this is told of
ANSWER_SECONDS = 10.0  # as huggingface_hub's HF_HUB_DOWNLOAD_TIMEOUT

WHOLE_SECONDS = 120.0  # a list of 100,000 files takes 100 requests, each well under a second
MOST_REQUESTS = 200  # for one question: a list that goes on for longer has no end

# httpcore's events that show somebody is there; the latter's value has the status at its second place
_CONNECTED = "http11.send_request_headers.started"
_ANSWERS = "http11.receive_response_headers.complete"


@dataclass(slots=True)
class _Question:
    """What is asked in a thread of its own, which tells how far it is; changes with each request.

    signs: of life, a status where an answer begins. is_over: whether nobody waits for the answer any more.
    """

    host: str
    signs: SimpleQueue[object] = field(default_factory=SimpleQueue)
    is_over: bool = False
    n_requests: int = 0

    def ask_once_more(self) -> None:
        """Count a request; raises HubError for too many, SetbackError where nobody waits for what it brings."""
        self.n_requests += 1
        if self.n_requests > MOST_REQUESTS:
            raise without_end(self.host, MOST_REQUESTS)
        if self.is_over:
            raise SetbackError(f"{self.host} is not waited for any more", unreachable=True)

    def told(self, event: str, info: Mapping[str, Any]) -> None:
        """Pass on what httpcore tells of a request."""
        if event == _CONNECTED:
            self.came()
        if event == _ANSWERS:
            self.came(info["return_value"][1])

    def came(self, sign: object = None) -> None:
        """Give a sign of life, while somebody waits for one."""
        if not self.is_over:
            self.signs.put(sign)


_question: ContextVar[_Question | None] = ContextVar("question", default=None)


def answered(
    ask: Callable[[], T],
    host: str,
    *,
    slow: Callable[[str], None] = lambda _: None,
    seconds: float = ANSWER_SECONDS,
    whole_seconds: float = WHOLE_SECONDS,
) -> T:
    """Return what a question is answered; raises SetbackError where the server is not there or says nothing.

    host: who is asked, as people are told. slow: told once for each request that takes long. seconds: without any sign
    of life, after which it is given up; whole_seconds: with all of them. What asking raises is raised, and HubError
    where it takes too many requests.
    """
    question = _Question(host)
    answer: Future[T] = Future()
    Thread(target=_ask, args=(ask, answer, question), daemon=True).start()
    try:
        _wait(answer, question, slow, seconds, whole_seconds)
    except BaseException:
        answer.add_done_callback(_throw_away)
        raise
    finally:
        question.is_over = True
    return answer.result()


def watch(request: httpx2.Request) -> None:
    """Have a request tell whoever waits for it how far it is; the client calls this before each."""
    if (question := _question.get()) is not None:
        question.ask_once_more()
        request.extensions["trace"] = question.told


def watch_body(response: httpx2.Response) -> None:
    """Have what comes of a body tell that it does; the client calls this before a body is read."""
    if (question := _question.get()) is not None:
        response.stream = _told_stream(response.stream, question)


def _told_stream(stream: Any, question: _Question) -> httpx2.SyncByteStream:
    import httpx2

    class Told(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for piece in stream:
                question.came()
                yield piece

        def close(self) -> None:
            stream.close()

    return Told()


def _ask(ask: Callable[[], T], answer: Future[T], question: _Question) -> None:
    _question.set(question)
    try:
        answer.set_result(ask())
    except BaseException as error:
        answer.set_exception(error)
        if not isinstance(error, Exception):
            raise
    finally:
        question.signs.put(answer)


def _wait(
    answer: Future[T], question: _Question, slow: Callable[[str], None], seconds: float, whole_seconds: float
) -> None:
    host, end = question.host, time.monotonic() + whole_seconds
    limit, is_connected, is_told, status = CONNECT_SECONDS, False, False, None
    while True:
        left = end - time.monotonic()
        try:
            sign = question.signs.get(timeout=max(0.0, min(limit, left)))
            if sign is answer:
                return
            if left <= 0:
                raise SetbackError(f"{host} took more than {whole_seconds:.0f} s", unreachable=True)
            limit, is_connected, is_told, status = min(SLOW_SECONDS, seconds), True, False, sign or status
        except Empty:
            if not is_connected:
                raise SetbackError(f"{host} cannot be reached within {limit:.0f} s", unreachable=True) from None
            if left <= limit:
                raise SetbackError(f"{host} took more than {whole_seconds:.0f} s", unreachable=True) from None
            if is_told and status in LATER:  # who asks waits by itself, longer than people do
                raise SetbackError(f"{host} answered {status}", unreachable=True) from None
            if is_told or seconds <= SLOW_SECONDS:
                raise SetbackError(f"{host} sent nothing for {seconds:.0f} s", unreachable=True) from None
            slow(host)
            limit, is_told = seconds - SLOW_SECONDS, True


def _throw_away(answer: Future[T]) -> None:
    """Close an answer that came too late."""
    if answer.exception() is None and (close := getattr(answer.result(), "close", None)) is not None:
        close()
