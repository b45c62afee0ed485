"""The application: every endpoint on its path, errors in its API's own shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmrun.errors import LLMRunError
from llmrun.server.anthropic import messages
from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.families import Problem, problem_of, shape_of
from llmrun.server.ollama import chat as ollama_chat
from llmrun.server.ollama import models as ollama_models
from llmrun.server.openai import chat, completions, models, responses

ENDPOINTS: tuple[Endpoint, ...] = (
    *models.ENDPOINTS,
    *chat.ENDPOINTS,
    *completions.ENDPOINTS,
    *responses.ENDPOINTS,
    *messages.ENDPOINTS,
    *ollama_chat.ENDPOINTS,
    *ollama_models.ENDPOINTS,
)


def make_app(service: Service) -> Starlette:
    """Return the application that answers from a service."""
    routes = [Route(endpoint.path, _bound(endpoint, service), methods=[endpoint.method]) for endpoint in ENDPOINTS]
    routes.append(Route("/health", _health))
    handlers = {LLMRunError: _refuse, HTTPException: _refuse_http}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


def _bound(endpoint: Endpoint, service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        request.state.owner = ""
        return await endpoint.handler(request, service)

    return handle


async def _health(_: Request) -> Response:
    return json_response({"status": "ok"})


async def _refuse(request: Request, error: LLMRunError) -> Response:
    problem = problem_of(error)
    return json_response(shape_of(request.url.path)(problem), problem.status)


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    problem = Problem(error.status_code, error.detail)
    return json_response(shape_of(request.url.path)(problem), problem.status, dict(error.headers or {}))
