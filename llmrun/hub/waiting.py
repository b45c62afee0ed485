"""A question to a server with a deadline for each thing that can take for ever: a name, a connection, an answer.

The question runs in a thread of its own, because looking up a name cannot be given a deadline; a thread that still
waits when its time is over is left behind, and ends with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from llmrun.hub.answer import LATER
from llmrun.hub.setback import SetbackError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

CONNECT_SECONDS = 2.0  # a server that is down is said to be within this, whatever its name and addresses do meanwhile
SLOW_SECONDS = 2.0  # a server that has not answered after this is told of
ANSWER_SECONDS = 10.0  # as huggingface_hub's HF_HUB_DOWNLOAD_TIMEOUT

# httpcore's events that show somebody is there; the latter's value has the status at its second place
_CONNECTED = "http11.send_request_headers.started"
_ANSWERS = "http11.receive_response_headers.complete"

_signs_of_life: ContextVar[SimpleQueue[object] | None] = ContextVar("signs_of_life", default=None)


def answered(
    ask: Callable[[], T], host: str, *, slow: Callable[[str], None] = lambda _: None, seconds: float = ANSWER_SECONDS
) -> T:
    """Return what a question is answered; raises SetbackError where the server is not there or says nothing.

    host: who is asked, as people are told. slow: told once for each request that takes long. seconds: without any sign
    of life, after which it is given up. What asking raises is raised.
    """
    signs: SimpleQueue[object] = SimpleQueue()
    answer: Future[T] = Future()
    Thread(target=_ask, args=(ask, answer, signs), daemon=True).start()
    try:
        _wait(answer, signs, host, slow, seconds)
    except BaseException:
        answer.add_done_callback(_throw_away)
        raise
    return answer.result()


def watch(request: httpx2.Request) -> None:
    """Have a request tell whoever waits for it how far it is; the client calls this before each."""
    if (signs := _signs_of_life.get()) is not None:
        request.extensions["trace"] = partial(_pass_on, signs)


def _pass_on(signs: SimpleQueue[object], event: str, info: Mapping[str, Any]) -> None:
    if event == _CONNECTED:
        signs.put(None)
    if event == _ANSWERS:
        signs.put(info["return_value"][1])


def _ask(ask: Callable[[], T], answer: Future[T], signs: SimpleQueue[object]) -> None:
    _signs_of_life.set(signs)
    try:
        answer.set_result(ask())
    except BaseException as error:
        answer.set_exception(error)
        if not isinstance(error, Exception):
            raise
    finally:
        signs.put(answer)


def _wait(
    answer: Future[T], signs: SimpleQueue[object], host: str, slow: Callable[[str], None], seconds: float
) -> None:
    limit, is_connected, is_told, status = CONNECT_SECONDS, False, False, None
    while True:
        try:
            sign = signs.get(timeout=limit)
            if sign is answer:
                return
            limit, is_connected, is_told, status = min(SLOW_SECONDS, seconds), True, False, sign or status
        except Empty:
            if not is_connected:
                raise SetbackError(f"{host} cannot be reached within {limit:.0f} s", unreachable=True) from None
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
