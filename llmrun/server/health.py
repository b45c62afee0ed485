"""Whether the server is well, and its figures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.metrics import CONTENT_TYPE


async def tell_health(_: Request, __: Service) -> Response:
    """Say that the server answers."""
    return json_response({"status": "ok"})


async def tell_metrics(_: Request, service: Service) -> Response:
    """Give its figures as Prometheus reads them."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


ENDPOINTS = (
    Endpoint("GET", "/health", "Whether the server answers", tell_health, is_free=True, tags=("server",)),
    Endpoint("GET", "/metrics", "Figures for Prometheus", tell_metrics, kind="text/plain", tags=("server",)),
)
