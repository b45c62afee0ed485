"""OpenAI's chat completions: the endpoint."""

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
from llmrun.server.openai.answer import Head, new_id, wholes_of
from llmrun.server.openai.chat_answer import ChatShape, ChatStream, format_chat
from llmrun.server.openai.chat_request import ChatRequest, parse_chat
from llmrun.server.openai.events import events_of
from llmrun.server.openai.parameters import wants_usage
from llmrun.server.presence import respond, stream


async def complete_chat(request: Request, service: Service) -> Response:
    """Answer a conversation."""
    body = await read_body(request, ChatRequest)
    owner = request.state.owner
    if body.stream:
        return await respond(request, stream(_events(body, service, owner)))
    return await respond(request, _whole(body, service, owner))


async def _whole(body: ChatRequest, service: Service, owner: str) -> Response:
    with ImageFolder() as folder:
        ask = parse_chat(body, folder.keep)
        async with answering(ask, service.fleet, owner) as answers:
            wholes = await wholes_of(answers.pieces, ask.n)
    return json_response(format_chat(_head(answers.model), wholes, _shape(body)))


async def _events(body: ChatRequest, service: Service, owner: str) -> AsyncGenerator[bytes, None]:
    with ImageFolder() as folder:
        ask = parse_chat(body, folder.keep)
        async with answering(ask, service.fleet, owner) as answers:
            chunks = ChatStream(_head(answers.model), _shape(body), ask.n)
            async with aclosing(events_of(answers.pieces, chunks)) as events:
                async for event in events:
                    yield event


def _shape(body: ChatRequest) -> ChatShape:
    return ChatShape(bool(body.logprobs), wants_usage(body))


def _head(model: str) -> Head:
    return Head(new_id("chatcmpl"), int(time.time()), model)


ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", "Answer a conversation", complete_chat, ChatRequest, streams=True),
)
