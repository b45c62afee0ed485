"""The machine and the plans by which its models run, as `llmrun hardware --json` and `llmrun plan --json` give them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import NotFoundError
from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Service

_FRESH = 10.0  # seconds that the machine is not looked at again: each look starts a process


class PlannedModel(msgspec.Struct):
    """A model that is loaded, and its plan; sizes are bytes."""

    name: str
    plan: dict[str, Any]


class Plans(msgspec.Struct):
    """The machine as it is now, and the plans of the models that are loaded on it; sizes are bytes."""

    hardware: dict[str, Any]
    models: list[PlannedModel]


class _Machine:
    """The machine, looked at once for all who ask within a while."""

    def __init__(self) -> None:
        self._looked = -_FRESH
        self._figures: asyncio.Task[dict[str, Any]] | None = None

    async def figures(self) -> dict[str, Any]:
        """Return what `llmrun hardware --json` prints."""
        now = time.monotonic()
        loop = asyncio.get_running_loop()
        if self._figures is None or now - self._looked > _FRESH or self._figures.get_loop() is not loop:
            self._looked = now
            self._figures = asyncio.create_task(asyncio.to_thread(_look))
        return await asyncio.shield(self._figures)  # who asked first may go away


_machine = _Machine()


def _look() -> dict[str, Any]:
    from llmrun.cli.hardware import hardware_figures, survey_machine  # here: the command line's words, and its figures

    return hardware_figures(survey_machine())


async def tell_plans(request: Request, service: Service) -> Response:
    """Give the machine and the plans; raises NotFoundError where the model that is asked for is not loaded."""
    from llmrun.cli.planning import plan_figures

    wanted = request.query_params.get("model")
    loaded = [model for model in service.fleet.loaded() if wanted is None or wanted in (model.name, *model.names)]
    if wanted is not None and not loaded:
        raise NotFoundError(f"the model {wanted!r} is not loaded", "it is once it is asked something")
    models = [PlannedModel(model.name, plan_figures(model.started.summary, model.started.plan)) for model in loaded]
    return json_response(Plans(await _machine.figures(), models))


ENDPOINTS = (
    Endpoint(
        "GET", "/v1/plan", "The machine, and how its models run", tell_plans, answer=Plans, tags=("server",),
        query=("model",),
    ),
)  # fmt: skip
