"""OpenAI's chat completions: what clients send, as an Ask, and the answers as they expect them."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.engine.protocol import Chunk, FinishReason, Usage
from llmrun.message import Message
from llmrun.sampling import SamplingWish
from llmrun.server.answering import answering
from llmrun.server.ask import Ask
from llmrun.server.bodies import json_response, read_body
from llmrun.server.endpoint import Endpoint, Service

_FINISHED: dict[FinishReason, str] = {"stop": "stop", "length": "length", "context": "length", "cancelled": "stop"}


class ChatMessage(msgspec.Struct):
    """A message as a client sends it."""

    role: str
    content: str


class ChatRequest(msgspec.Struct):
    """The body of a request for chat completions."""

    messages: list[ChatMessage]
    model: str = ""
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


async def complete_chat(request: Request, service: Service) -> Response:
    """Answer a conversation."""
    body = await read_body(request, ChatRequest)
    ask = _ask(body)
    async with answering(ask, service.fleet, request.state.owner) as answers:
        chunks = [piece.chunk async for piece in answers.pieces]
    return json_response(_completion(answers.model, chunks))


def _ask(body: ChatRequest) -> Ask:
    messages = tuple(Message(message.role, message.content) for message in body.messages)
    return Ask(
        body.model,
        messages,
        sampling=SamplingWish(temperature=body.temperature, seed=body.seed),
        max_tokens=body.max_tokens,
    )


def _completion(model: str, chunks: list[Chunk]) -> dict[str, Any]:
    text = "".join(chunk.text for chunk in chunks if not chunk.thought)
    last = chunks[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": _FINISHED[last.finish_reason],
    }
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": _usage(last.usage),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


ENDPOINTS = (
    Endpoint("POST", "/v1/chat/completions", "Answer a conversation", complete_chat, ChatRequest, streams=True),
)
