"""OpenAI's responses: the endpoint. Nothing is kept between requests."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.answering import answering
from llmrun.server.bodies import json_response, read_body
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.image_folder import ImageFolder
from llmrun.server.openai.answer import Head, new_id
from llmrun.server.openai.events import events_of
from llmrun.server.openai.response_answer import ResponseStream, echo_of
from llmrun.server.openai.response_request import ResponseRequest, parse_response
from llmrun.server.presence import respond, stream


async def respond_to(request: Request, service: Service) -> Response:
    """Answer a conversation of items."""
    body = await read_body(request, ResponseRequest)
    owner = request.state.owner
    if body.stream:
        return await respond(request, stream(_events(body, service, owner)))
    return await respond(request, _whole(body, service, owner))


async def _whole(body: ResponseRequest, service: Service, owner: str) -> Response:
    with ImageFolder() as folder:
        ask = parse_response(body, folder.keep)
        async with answering(ask, service.fleet, owner) as answers:
            events = ResponseStream(_head(answers.model), echo_of(body))
            async for piece in answers.pieces:
                events.format(piece)
    return json_response(events.end()[0]["response"])


async def _events(body: ResponseRequest, service: Service, owner: str) -> AsyncGenerator[bytes, None]:
    with ImageFolder() as folder:
        ask = parse_response(body, folder.keep)
        async with answering(ask, service.fleet, owner) as answers:
            chunks = ResponseStream(_head(answers.model), echo_of(body))
            async with aclosing(events_of(answers.pieces, chunks)) as events:
                async for event in events:
                    yield event


def _head(model: str) -> Head:
    return Head(new_id("resp"), int(time.time()), model)


ENDPOINTS = (
    Endpoint("POST", "/v1/responses", "Answer a conversation of items", respond_to, ResponseRequest, streams=True),
)
