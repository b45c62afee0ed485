"""The page at /: a chat in the browser, its files as they lie beside this module, and what browsers may do with them.

It knows nothing of models: what the page shows it asks of the APIs, as every other client does. Where a key is wanted
the browser asks for it, as a password, and sends it along with what the page asks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from llmrun.server.endpoint import Endpoint, Service

_INDEX = "index.html"
_MEDIA = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# What is not in this list is not served: a name is looked up, never made into a path.
ASSETS = (
    "answer.js",
    "blocks.js",
    "conversation.js",
    "desk.js",
    "dialogs.js",
    "dom.js",
    "elements.js",
    "events.js",
    "icon.svg",
    "inline.js",
    "main.js",
    "markdown.js",
    "memory.js",
    "message.js",
    "notice.js",
    "panel.js",
    "server.js",
    "settings.js",
    "sidebar.js",
    "store.js",
    "style.css",
    "text.css",
    "thread.js",
    "transfer.js",
    "units.js",
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # text can become markup nowhere, not even by mistake
)
_HEADERS = {
    # every load asks whether it is still the same: after an update no old module meets a new one
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


async def show_page(request: Request, _: Service) -> Response:
    """Give browsers the page, and everybody else the line by which clients of Ollama know that somebody is there."""
    if not _wants_html(request.headers.get("accept", "")):
        return PlainTextResponse("Ollama is running", headers={"Vary": "Accept", "Cache-Control": "no-store"})
    return _respond(request, _INDEX)


async def show_asset(request: Request, _: Service) -> Response:
    """Give one of the page's files; raises HTTPException for a name that is none of theirs."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404, "the page has no such file")
    return _respond(request, name)


def _wants_html(accept: str) -> bool:
    """Tell whether a client names HTML among what it takes, as browsers do and programs that take anything do not."""
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return "text/html" in kinds


def _respond(request: Request, name: str) -> Response:
    asset = _asset(name)
    headers = _HEADERS | {"ETag": asset.etag} | ({"Vary": "Accept"} if name == _INDEX else {})
    known = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    if asset.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)


@cache
def _asset(name: str) -> _Asset:
    content = (files("llmrun.server") / "page" / name).read_bytes()
    kind = _MEDIA[name.rpartition(".")[2]]
    return _Asset(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_STYLES = ("text/css", "image/svg+xml")
ENDPOINTS = (
    Endpoint("GET", "/", "The chat page", show_page, kind="text/html", also=("text/plain",), tags=("page",)),
    Endpoint(
        "GET",
        "/page/{name}",
        "Its files",
        show_asset,
        kind="text/javascript",
        also=_STYLES,
        tags=("page",),
    ),
)
