"""The models that are served, as OpenAI lists them: the endpoints."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.anthropic.models import list_of, model_of, speaks_anthropic
from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Service

_BEGUN = int(time.time())  # when a model was made is not known; this at least does not change while we run


class Model(msgspec.Struct):
    """A model that can be asked. created: seconds since 1970, when this server began."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "llmrun"


class ModelList(msgspec.Struct):
    """The models that can be asked."""

    data: list[Model]
    object: Literal["list"] = "list"


async def list_models(request: Request, service: Service) -> Response:
    """Name the models."""
    names = tuple(one.name for one in await service.fleet.offered())
    if speaks_anthropic(request.headers):
        return json_response(list_of(names))
    return json_response(ModelList([Model(name, _BEGUN) for name in names]))


async def show_model(request: Request, service: Service) -> Response:
    """Tell of one model; raises NotFoundError for one that is not served."""
    name = request.path_params["model"]
    await service.fleet.find(name)
    return json_response(model_of(name) if speaks_anthropic(request.headers) else Model(name, _BEGUN))


ENDPOINTS = (
    Endpoint("GET", "/v1/models", "List the models", list_models, answer=ModelList),
    Endpoint("GET", "/v1/models/{model:path}", "Tell of one model", show_model, answer=Model),
)
