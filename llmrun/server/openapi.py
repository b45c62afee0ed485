"""What the server answers to, as an OpenAPI document: made from the endpoints and the types of their bodies. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from llmrun.server.endpoint import Endpoint
from llmrun.server.families import anthropic_error, ollama_error, shape_of

_PARAMETER = re.compile(r"\{([A-Za-z_]+)(?::[a-z]+)?\}")
# What the guard and the frame may say to any request, and to one with a body; 507, 422, 502: loading a model on demand.
_ALWAYS = (400, 401, 403, 421, 429, 431, 500, 503)
_WITH_BODY = (404, 408, 413, 415, 422, 502, 507)
_TEXT = {"type": "string"}
_ERRORS = {
    "openai": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"message": _TEXT, "type": _TEXT, "param": {}, "code": {}},
                "required": ["message", "type"],
            }
        },
        "required": ["error"],
    },
    "anthropic": {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"message": _TEXT, "type": _TEXT},
                "required": ["message", "type"],
            },
        },
        "required": ["type", "error"],
    },
    "ollama": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]},
}


def document_of(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return the document; it is plain JSON values."""
    types = [kind for endpoint in endpoints for kind in (endpoint.body, endpoint.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmrun",
            "version": version,
            "description": "Language models on one's own machine. Keys are asked for where the server was started so.",
        },
        "paths": paths,
        "components": {"schemas": _ERRORS_NAMED | dict(components), "securitySchemes": keys},
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"[^A-Za-z0-9]+", "_", f"{endpoint.method.lower()}{endpoint.path}").strip("_"),
        "responses": _responses(endpoint, schema_of),
    }
    if endpoint.tags:
        operation["tags"] = list(endpoint.tags)
    named = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in parameters_of(endpoint.path)]
    named += [{"name": name, "in": "query", "required": False, "schema": _TEXT} for name in endpoint.query]
    if named:
        operation["parameters"] = named
    if endpoint.body is not None:
        content = {"application/json": {"schema": schema_of[id(endpoint.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.is_free:
        operation["security"] = []
    return operation


def parameters_of(path: str) -> list[str]:
    """Return the names of what is variable in a path."""
    return _PARAMETER.findall(path)


def _responses(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    schema = {} if endpoint.answer is None else schema_of[id(endpoint.answer)]
    content: dict[str, Any] = {endpoint.kind: {"schema": schema if endpoint.kind == "application/json" else _TEXT}}
    content |= {kind: {"schema": _TEXT} for kind in endpoint.also}
    if endpoint.streams:
        content[endpoint.stream_kind] = {"schema": {"description": "Parts of the answer as they come."}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in statuses_of(endpoint):
        reference = {"$ref": f"#/components/schemas/{_family(endpoint.path)}"}
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": reference}},
        }
    return responses


def statuses_of(endpoint: Endpoint) -> list[int]:
    """Return every status but 200 that an endpoint may answer with."""
    has_body = endpoint.method in ("POST", "PUT", "PATCH")
    found = {*_ALWAYS, *endpoint.statuses, *(_WITH_BODY if has_body else ())}
    if parameters_of(endpoint.path) or endpoint.query:
        found.add(404)
    return sorted(found)


_ERRORS_NAMED = {f"{family}_error": schema for family, schema in _ERRORS.items()}


def _family(path: str) -> str:
    shape = shape_of(path)
    if shape is anthropic_error:
        return "anthropic_error"
    return "ollama_error" if shape is ollama_error else "openai_error"
