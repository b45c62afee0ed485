"""The application: every endpoint on its path, behind the guard, errors in its API's own shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from llmrun.errors import LLMRunError
from llmrun.server import control
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.endpoints import ENDPOINTS
from llmrun.server.families import Problem, refusal_of, response_of
from llmrun.server.guard import Guard, Policy
from llmrun.server.near import meant_path, methods_by_path, methods_of
from llmrun.server.watch import FAULT, Told, Watch

_PATHS = frozenset(endpoint.path for endpoint in ENDPOINTS)
_METHODS = methods_by_path(ENDPOINTS)
_SERVED = "llmrun.path"  # in the scope of a request that came to an endpoint


def make_app(service: Service, policy: Policy = Policy(), told: Told = Told()) -> ASGIApp:
    """Return the application that answers from a service those whom a policy lets in."""
    routes = [Route(endpoint.path, _bound(endpoint, service), methods=[endpoint.method]) for endpoint in ENDPOINTS]
    routes += [Route(point.path, _bound(point, service), methods=[point.method]) for point in control.ENDPOINTS]
    handlers = {LLMRunError: _refuse, HTTPException: _refuse_http, Exception: _refuse_fault}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False  # a body is not sent twice
    free = frozenset(endpoint.path for endpoint in ENDPOINTS if endpoint.is_free)
    return Watch(Guard(app, replace(policy, free=free)), service.metrics, _path_of, told)


def _bound(endpoint: Endpoint, service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        request.scope[_SERVED] = endpoint.path
        return await endpoint.handler(request, service)

    return handle


def _path_of(scope: Scope) -> str:
    """Return the path of the endpoint that a request is for, as it is declared; "other" for none."""
    return str(scope.get(_SERVED) or (scope["path"] if scope["path"] in _PATHS else "other"))


async def _refuse(request: Request, error: LLMRunError) -> Response:
    return refusal_of(error, request.url.path)


async def _refuse_fault(request: Request, _: Exception) -> Response:
    """Answer where a fault of ours was met, which goes on to the watch around everything."""
    return response_of(FAULT, request.url.path)


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    path, message = request.url.path, error.detail
    if error.status_code == 404:
        meant = meant_path(path, _METHODS)
        hint = "GET /openapi.json lists what there is" if meant is None else f"did you mean {meant}?"
        message = f"there is nothing at this path ({hint})"
    if error.status_code == 405 and (methods := methods_of(path, _METHODS)):
        message = f"this path takes {' or '.join(methods)}, not {request.method[:16]}"
        return response_of(Problem(405, message), path, {"Allow": ", ".join(methods)})
    return response_of(Problem(error.status_code, message), request.url.path, error.headers)
