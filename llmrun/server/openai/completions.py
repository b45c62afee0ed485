"""OpenAI's completions of plain text: the endpoint."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.answering import answering
from llmrun.server.ask import Ask
from llmrun.server.bodies import json_response, read_body
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.openai.answer import Head, new_id, wholes_of
from llmrun.server.openai.events import events_of
from llmrun.server.openai.parameters import wants_usage
from llmrun.server.openai.text_answer import TextShape, TextStream, format_text
from llmrun.server.openai.text_request import TextRequest, parse_text
from llmrun.server.presence import respond, stream


async def complete_text(request: Request, service: Service) -> Response:
    """Go on with a text, or fill the gap in one."""
    body = await read_body(request, TextRequest)
    ask, owner = parse_text(body), request.state.owner
    if body.stream:
        return await respond(request, stream(_events(ask, _shape(body, ask), service, owner)))
    return await respond(request, _whole(ask, _shape(body, ask), service, owner))


async def _whole(ask: Ask, shape: TextShape, service: Service, owner: str) -> Response:
    async with answering(ask, service.fleet, owner) as answers:
        wholes = await wholes_of(answers.pieces, ask.n * len(ask.raw))
    return json_response(format_text(_head(answers.model), wholes, shape))


async def _events(ask: Ask, shape: TextShape, service: Service, owner: str) -> AsyncGenerator[bytes, None]:
    async with answering(ask, service.fleet, owner) as answers:
        chunks = TextStream(_head(answers.model), shape)
        async with aclosing(events_of(answers.pieces, chunks)) as events:
            async for event in events:
                yield event


def _shape(body: TextRequest, ask: Ask) -> TextShape:
    echoes = tuple(prompt.text for prompt in ask.raw) if body.echo else ()
    return TextShape(ask.n, body.logprobs is not None, echoes, wants_usage(body))


def _head(model: str) -> Head:
    return Head(new_id("cmpl"), int(time.time()), model)


ENDPOINTS = (
    Endpoint(
        "POST", "/v1/completions", "Go on with a text, or fill the gap in one", complete_text, TextRequest, streams=True
    ),
)
