"""Around everything: what came of each request is counted and told, and no fault of ours leaves a client unanswered."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.console import one_line
from llmrun.server.families import Problem, response_of
from llmrun.server.metrics import Metrics
from llmrun.server.reach import plain_address
from llmrun.server.tally import Tally, begin_tally

FAULT = Problem(500, "llmrun met a fault of its own; its log says more")
_LEFT = 499  # nginx's own for a client that went away; it is in no answer, only in what is told
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LONGEST = 200  # characters of a path that is told


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told of requests: line of each one, fault of what must not happen. prompts: whether their text is too."""

    line: Callable[[str], None] = lambda _: None
    fault: Callable[[str], None] = lambda _: None
    prompts: bool = False


@dataclass(slots=True)
class _Seen:
    """What was sent of an answer by now."""

    status: int = 0
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """The application within, watched. paths: those that are served, by which requests are counted."""

    app: ASGIApp
    metrics: Metrics
    paths: Callable[[Scope], str]
    told: Told = field(default_factory=Told)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        tally, seen = begin_tally(), _Seen()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            await send(message)
            seen.is_complete |= message["type"] == "http.response.body" and not message.get("more_body", False)

        self.metrics.begin()
        try:
            await self.app(scope, receive, note)
        except ClientDisconnect:
            seen.status = _LEFT
        except asyncio.CancelledError:  # the server ends, and was patient: uvicorn closes what is begun
            if not seen.status:
                await response_of(Problem(503, "the server is ending"), scope["path"])(scope, receive, note)
        except Exception as error:  # the top: a fault of ours is told here, and the client gets an answer
            self.told.fault(_fault_text(error, scope))
            if not seen.status:
                await response_of(FAULT, scope["path"])(scope, receive, note)
        finally:
            status = seen.status if seen.is_complete or not seen.status else _LEFT
            self._end(scope, status or _LEFT, tally)

    def _end(self, scope: Scope, status: int, tally: Tally) -> None:
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "other"
        self.metrics.end(method, self.paths(scope), status, tally)
        self.told.line(f"{time.strftime('%H:%M:%S')} {line_of(scope, status, tally)}")
        if self.told.prompts and tally.ask is not None:
            for message in tally.ask.messages:
                self.told.line(f"  {one_line(message.role)}: {one_line(message.content)}")
            for raw in tally.ask.raw:
                self.told.line(f"  prompt: {one_line(raw.text)}")


def line_of(scope: Scope, status: int, tally: Tally) -> str:
    """Return what is told of a request: one line, without anything of what was asked."""
    address = plain_address(str((scope.get("client") or ("-",))[0]))
    parts = [address, scope["method"][:16], scope["path"][:_LONGEST], str(status), f"{tally.seconds * 1000:.0f} ms"]
    if tally.model:
        parts.append(f"{tally.model}: {tally.prompt_tokens} + {tally.completion_tokens} tokens")
    if owner := scope.get("state", {}).get("owner"):
        parts.append(f"key={owner}")
    return one_line(" ".join(parts))


def _fault_text(error: Exception, scope: Scope) -> str:
    """Return where a fault is. The error's own words are left out: they may be those of a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    way = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return one_line(f"{type(error).__name__} while answering {scope['method'][:16]} {scope['path'][:_LONGEST]}: {way}")
