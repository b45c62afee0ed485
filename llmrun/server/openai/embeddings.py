"""OpenAI's embeddings: the endpoint."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import UsageError
from llmrun.server.bodies import json_response, read_body
from llmrun.server.embedding import base64_of, embed, numbers_of
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.presence import respond


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The body of a request for embeddings; input: a text, tokens, or a list of either."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """The vector of one text, of length one; as numbers, or as 32-bit ones in Base64."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(msgspec.Struct, kw_only=True):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the texts."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


async def embed_texts(request: Request, service: Service) -> Response:
    """Turn texts into vectors."""
    body = await read_body(request, EmbeddingRequest)
    texts = parse_input(body.input)
    if body.dimensions is not None:
        raise UsageError("dimensions is not supported: the vector is as long as the model's hidden state, whole")

    async def answer() -> Response:
        vectors = await embed(body.model, texts, service.fleet)
        shown: Any = base64_of if body.encoding_format == "base64" else numbers_of
        data = [Embedding(index=index, embedding=shown(one.vector)) for index, one in enumerate(vectors.found)]
        usage = EmbeddingUsage(prompt_tokens=vectors.n_tokens, total_tokens=vectors.n_tokens)
        return json_response(EmbeddingList(data=data, model=vectors.model, usage=usage))

    return await respond(request, answer())


def parse_input(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Return the texts that are meant, each as text or as tokens; raises UsageError for a mixture."""
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    if numbers and len(numbers) == len(given):
        return [numbers]
    texts = [one for one in given if not isinstance(one, int)]
    if len(texts) != len(given):
        raise UsageError("the input is a text, a list of texts, tokens, or a list of lists of tokens")
    return texts


ENDPOINTS = (
    Endpoint("POST", "/v1/embeddings", "Turn texts into vectors", embed_texts, EmbeddingRequest, EmbeddingList),
)
