"""Whether the server is well, and its figures."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.metrics import CONTENT_TYPE, ModelGauges


class Health(msgspec.Struct):
    """That the server answers."""

    status: Literal["ok"] = "ok"


async def tell_health(_: Request, __: Service) -> Response:
    """Say that the server answers."""
    return json_response(Health())


async def tell_metrics(_: Request, service: Service) -> Response:
    """Give its figures as Prometheus reads them."""
    models = [
        ModelGauges(model.name, model.n_slots, model.busy, model.waiting, dict(model.pools))
        for model in service.fleet.loaded()
    ]
    return Response(service.metrics.text(models), media_type=CONTENT_TYPE)


ENDPOINTS = (
    Endpoint(
        "GET", "/health", "Whether the server answers", tell_health, answer=Health, is_free=True, tags=("server",)
    ),
    Endpoint("GET", "/metrics", "Figures for Prometheus", tell_metrics, kind="text/plain", tags=("server",)),
)
