"""Anthropic's messages: asked, counted, and answered whole or as a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import LLMRunError
from llmrun.server.answering import answering
from llmrun.server.anthropic.answer import Writer, message_of
from llmrun.server.anthropic.asking import ask_of, messages_of, tools_of
from llmrun.server.anthropic.request import Conversation, MessageRequest
from llmrun.server.anthropic.waiting import with_signs
from llmrun.server.bodies import json_response, read_body, sse
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.families import anthropic_error, problem_of
from llmrun.server.image_folder import ImageFolder
from llmrun.server.limits import check_counts, check_length
from llmrun.server.presence import respond, stream

# Seconds without a word before a ping: reading a long prompt takes minutes, and proxies give up after one. Until the
# first, an error still has a status of its own.
_SILENCE = 10.0


async def create_message(request: Request, service: Service) -> Response:
    """Answer a conversation."""
    body = await read_body(request, MessageRequest)
    owner = request.state.owner
    if body.stream:
        return await respond(request, stream(_events(body, service, owner)))
    return await respond(request, _whole(body, service, owner))


async def count_tokens(request: Request, service: Service) -> Response:
    """Count the tokens of a conversation as the model reads it."""
    body = await read_body(request, Conversation)
    return await respond(request, _counted(body, service))


async def _whole(body: MessageRequest, service: Service, owner: str) -> Response:
    with ImageFolder() as folder:
        async with answering(ask_of(body, folder.keep), service.fleet, owner) as answers:
            chunks = [piece.chunk async for piece in answers.pieces]
    return json_response(message_of(_new_id(), body.model, chunks))


async def _events(body: MessageRequest, service: Service, owner: str) -> AsyncGenerator[bytes, None]:
    """Give the events of an answer; what goes wrong once it was begun is the last of them."""
    writer = Writer(_new_id(), body.model)
    try:
        with ImageFolder() as folder:
            async with (
                answering(ask_of(body, folder.keep), service.fleet, owner) as answers,
                aclosing(with_signs(answers.pieces, _SILENCE)) as pieces,
            ):
                async for piece in pieces:
                    for event in writer.wait() if piece is None else writer.take(piece.chunk, piece.read):
                        yield sse(event, event["type"])
    except LLMRunError as error:
        if not writer.begun:
            raise
        yield sse(anthropic_error(problem_of(error)), "error")


async def _counted(body: Conversation, service: Service) -> Response:
    with ImageFolder() as folder:
        messages, tools = messages_of(body, folder.keep), tools_of(body)
        check_counts(messages, tools)
        async with service.fleet.borrow(body.model) as served:
            check_length(messages, tools, served.engine.info.n_ctx)
            counts = await served.engine.count(messages, tools)
    return json_response({"input_tokens": counts.total})


def _new_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


ENDPOINTS = (
    Endpoint("POST", "/v1/messages", "Answer a conversation", create_message, MessageRequest, streams=True),
    Endpoint("POST", "/v1/messages/count_tokens", "Count the tokens of a conversation", count_tokens, Conversation),
)
