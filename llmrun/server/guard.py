"""Who may ask, and with what: everything a request must pass before any of it is read.

In this order: the host it is for, the page it comes from, the key, the key's rate, the kind of its body and its size.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrun.errors import HeadTooLargeError, LLMRunError, MediaTypeError, RateError, UnauthorizedError
from llmrun.server import limits
from llmrun.server.families import refusal_of
from llmrun.server.intake import Intake, Reading
from llmrun.server.keys import Keys
from llmrun.server.origins import Doors, check_host, check_origin
from llmrun.server.rates import Buckets, Rate
from llmrun.server.reach import plain_address

# Paths below it are for the holder of the control key alone, which their own endpoints ask for.
CONTROL = "/llmrun/"
_WITH_BODY = ("POST", "PUT", "PATCH")
_WRONG_KEYS = Rate(30, 60)  # a client that guesses
_ADDRESSES = 10_000  # remembered of those
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server lets in. keys: None where none is needed. max_body: bytes. free: paths that need no key."""

    doors: Doors = field(default_factory=Doors)
    keys: Keys | None = None
    rate: Rate | None = None
    max_body: int = limits.MAX_BODY
    seconds_to_send: float = limits.SECONDS_TO_SEND
    free: frozenset[str] = frozenset({"/health"})


class Guard:
    """Lets requests through to the application that a policy lets in, and tells the others why not."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy
        self._buckets = None if policy.rate is None else Buckets(policy.rate)
        self._wrong = Buckets(_WRONG_KEYS)
        self._reading = Reading()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        most, seconds = self._policy.max_body, self._policy.seconds_to_send
        intake = Intake(scope, receive, self._reading, most=most, seconds=seconds)
        headers = Headers(scope=scope)
        site: str | None = None

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                await _finish_head(message, intake, site)
            await send(message)

        try:
            _check_head(scope)
            check_host(headers.get("host"), self._policy.doors, _local(scope))
            site = check_origin(scope["method"], headers, self._policy.doors)
            if site is not None and _is_preflight(scope, headers):
                await _preflight(headers)(scope, receive, reply)
                return
            self._admit(scope, headers)
            _check_kind(scope["method"], headers, intake)
            await self._app(scope, intake.receive, reply)
        except LLMRunError as error:
            response = refusal_of(error, scope["path"])
            if isinstance(error, UnauthorizedError):
                response.headers["WWW-Authenticate"] = _challenge(headers)
            await response(scope, receive, reply)
        finally:
            intake.release()

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Note the name of the key that a request came with, "" where it needs none; raises RefusedError."""
        owner, path = "", scope["path"]
        if self._policy.keys is not None and path not in self._policy.free and not path.startswith(CONTROL):
            owner = self._owner(self._policy.keys, scope, headers)
        scope.setdefault("state", {})["owner"] = owner  # before its rate: who is refused for that is named in the log
        if self._buckets is not None and scope["method"] in _WITH_BODY and not path.startswith(CONTROL):
            self._buckets.take(owner)

    def _owner(self, keys: Keys, scope: Scope, headers: Headers) -> str:
        address = (scope.get("client") or ("",))[0]
        given = given_keys(headers)
        for key in given:
            if (owner := keys.owner_of(key)) is not None:
                return owner
        if given:
            self._wrong.prune(_ADDRESSES)
            try:
                self._wrong.take(address)
            except RateError as error:
                raise RateError("too many wrong API keys", "look at the key", error.retry_after) from None
            raise UnauthorizedError("this is none of the server's API keys", "look at the key that the client sends")
        raise UnauthorizedError(
            "this server answers only with an API key", "send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
        )


def given_keys(headers: Headers) -> list[str]:
    """Return the keys that a request came with: a bearer's, an x-api-key, or a browser's password."""
    found = []
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(rest.strip())
    if scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            found.append("")
    return found + headers.getlist("x-api-key")


def _check_head(scope: Scope) -> None:
    """Raise HeadTooLargeError where the HTTP server let a head pass because all of it came at once."""
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > limits.MAX_HEADERS:
        raise HeadTooLargeError(
            f"path and headers have {size:,} bytes: at most {limits.MAX_HEADERS:,} are taken", "send fewer headers"
        )


def _challenge(headers: Headers) -> str:
    """Let a browser that opens the page ask for the key, as a password; programs are not asked."""
    is_person = "text/html" in headers.get("accept", "") and headers.get("sec-fetch-mode", "navigate") == "navigate"
    return 'Basic realm="llmrun: the API key as password", charset="UTF-8"' if is_person else "Bearer"


def _check_kind(method: str, headers: Headers, intake: Intake) -> None:
    """Raise MediaTypeError for a body that is not JSON, BodyTooLargeError for one that says it is too large."""
    if method in _WITH_BODY or intake.declared != 0:
        kind = headers.get("content-type", "")
        name, _, rest = kind.partition(";")
        charset = rest.strip().lower().replace('"', "")
        if name.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            said = f"Content-Type {kind[:100]!r}" if kind else "no Content-Type"
            raise MediaTypeError(f"the body has {said}", "send JSON, with `Content-Type: application/json`")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise MediaTypeError("the body is compressed", "send it as it is")
    intake.check(intake.declared or 0)


def _local(scope: Scope) -> str | None:
    server = scope.get("server")
    return None if server is None else plain_address(str(server[0]))


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _preflight(headers: Headers) -> Response:
    """Return the leave to ask, for a page of a site that was named at the start."""
    given = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "content-type"),
        "Access-Control-Max-Age": "600",
    }
    if headers.get("access-control-request-private-network") == "true":
        given["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=given)


async def _finish_head(message: Message, intake: Intake, site: str | None) -> None:
    """Add what every answer says, and end the connection where the request has not."""
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.add_vary_header("Origin")
    if site is not None:
        headers["Access-Control-Allow-Origin"] = site
        headers["Access-Control-Expose-Headers"] = "Retry-After"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if not intake.is_finished:
        await intake.drain()
        headers["Connection"] = "close"
