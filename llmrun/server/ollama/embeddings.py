"""Ollama's two ways to ask for embeddings: the endpoints."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.bodies import json_response, read_body
from llmrun.server.embedding import Vectors, embed, numbers_of
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.ollama.asking import keep_alive_of
from llmrun.server.ollama.request import Number
from llmrun.server.presence import respond


class EmbedRequest(Struct, kw_only=True):
    """The body of a request for embeddings; truncate: whether what is too long is cut, as it is if nothing is said."""

    model: str
    input: str | list[str]
    truncate: bool | None = None
    keep_alive: Number | str | None = None


class OldRequest(Struct, kw_only=True):
    """The body of a request for one embedding, as older clients send it."""

    model: str
    prompt: str
    keep_alive: Number | str | None = None


async def embed_many(request: Request, service: Service) -> Response:
    """Turn texts into vectors."""
    body = await read_body(request, EmbedRequest)
    texts = [body.input] if isinstance(body.input, str) else body.input
    began = time.perf_counter_ns()

    async def answer() -> Response:
        keep = keep_alive_of(body.keep_alive)
        vectors = await embed(body.model, texts, service.fleet, keep, truncate=body.truncate is not False)
        return json_response(_many(vectors, time.perf_counter_ns() - began))

    return await respond(request, answer())


async def embed_one(request: Request, service: Service) -> Response:
    """Turn a text into a vector, for older clients."""
    body = await read_body(request, OldRequest)

    async def answer() -> Response:
        keep = keep_alive_of(body.keep_alive)
        vectors = await embed(body.model, [body.prompt], service.fleet, keep, truncate=True)
        return json_response({"embedding": numbers_of(vectors.found[0].vector)})

    return await respond(request, answer())


def _many(vectors: Vectors, nanoseconds: int) -> dict[str, Any]:
    return {
        "model": vectors.model,
        "embeddings": [numbers_of(one.vector) for one in vectors.found],
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": vectors.n_tokens,
    }


ENDPOINTS = (
    Endpoint("POST", "/api/embed", "Turn texts into vectors", embed_many, EmbedRequest),
    Endpoint("POST", "/api/embeddings", "Turn a text into a vector", embed_one, OldRequest),
)
