"""Ollama's ways to ask which models there are, and to have others: this server fetches and changes none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import LLMRunError, UsageError
from llmrun.server.bodies import json_response, read_body
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.families import Problem, ollama_error
from llmrun.server.names import Offered
from llmrun.server.ollama.answer import LINES, utc_now
from llmrun.server.ollama.describing import ModelOnDisk, running_of, show_of, tag_of
from llmrun.server.ollama.disk import look_at, look_at_loaded
from llmrun.server.ollama.finding import find, is_here
from llmrun.server.ollama.request import ModelRequest
from llmrun.server.presence import stream

# Whose API this is, which clients ask for to know what they may send: the first version of Ollama that has all of what
# is here, log probabilities being the last to come.
OLLAMA_VERSION = "0.12.11"


async def list_models(_: Request, service: Service) -> Response:
    """List the models that may be asked for and are here."""
    offered = await service.fleet.offered()
    return json_response({"models": [tag_of(model) for model in await asyncio.to_thread(_all_on_disk, offered)]})


async def list_running(_: Request, service: Service) -> Response:
    """List the models that are loaded."""
    loaded = service.fleet.loaded()
    models = await asyncio.gather(*(asyncio.to_thread(look_at_loaded, one) for one in loaded))
    return json_response(
        {"models": [running_of(model, one, utc_now()) for model, one in zip(models, loaded, strict=True)]}
    )


async def show_model(request: Request, service: Service) -> Response:
    """Tell what is known of a model; none is loaded for that."""
    body = await read_body(request, ModelRequest)
    found = await find(_wanted(body), service.fleet)
    return json_response(show_of(found.model, found.info, verbose=bool(body.verbose)))


async def tell_version(_: Request, __: Service) -> Response:
    """Tell which version of Ollama's API this is."""
    return json_response({"version": OLLAMA_VERSION})


async def pull_model(request: Request, service: Service) -> Response:
    """Say that a model is here; clients ask so before they use one. Refuse to fetch any other."""
    body = await read_body(request, ModelRequest)
    name = _wanted(body)
    if not await is_here(name, service.fleet):
        return _refused(
            f"the model {name[:100]!r} is not here, and a request fetches none", f"llmrun pull {name[:100]}"
        )
    if body.stream is False:
        return json_response({"status": "success"})
    return await stream(_success(), LINES)


async def delete_model(request: Request, _: Service) -> Response:
    """Refuse to remove a model."""
    body = await read_body(request, ModelRequest)
    return _refused("no request removes a model", f"llmrun rm {_wanted(body)[:100]}")


async def refuse_change(request: Request, _: Service) -> Response:
    """Refuse to make, copy or publish a model."""
    what = request.url.path.rpartition("/")[2]
    reason = f"{what} is not had here: models are served as their files are"
    return _refused(reason, "llmrun serve NAME_OR_FILE")


def _refused(reason: str, command: str) -> Response:
    return json_response(ollama_error(Problem(403, f"{reason} (`{command}` on the server's machine does)")), 403)


async def _success() -> AsyncGenerator[bytes, None]:
    for status in ("pulling manifest", "success"):
        yield msgspec.json.encode({"status": status}) + b"\n"


def _all_on_disk(offered: Sequence[Offered]) -> list[ModelOnDisk]:
    """Return all that can be looked at; who asks for another is told why it cannot."""
    models = []
    for one in offered:
        with suppress(LLMRunError):
            models.append(look_at(one.name, one.files, one.quant))
    return models


def _wanted(body: ModelRequest) -> str:
    if not body.wanted:
        raise UsageError("model is required")
    return body.wanted


ENDPOINTS = (
    Endpoint("GET", "/api/tags", "List the models that are here", list_models),
    Endpoint("GET", "/api/ps", "List the models that are loaded", list_running),
    Endpoint("POST", "/api/show", "Tell what is known of a model", show_model, ModelRequest),
    Endpoint("GET", "/api/version", "Tell the version of Ollama's API", tell_version),
    Endpoint(
        "POST", "/api/pull", "Say whether a model is here", pull_model, ModelRequest, streams=True, stream_kind=LINES
    ),
    Endpoint("DELETE", "/api/delete", "Refuse to remove a model", delete_model, ModelRequest),
    *(
        Endpoint("POST", f"/api/{what}", f"Refuse to {what} a model", refuse_change)
        for what in ("create", "copy", "push")
    ),
)
