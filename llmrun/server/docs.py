"""The endpoints, told: as an OpenAPI document for programs, and as a page of plain HTML for people."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from llmrun import __version__
from llmrun.server.bodies import json_response
from llmrun.server.endpoint import Endpoint, Handler, Service
from llmrun.server.openapi import document_of

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
details { border: 1px solid var(--line); border-radius: 0.5rem; margin: 0.5rem 0; padding: 0.5rem 1rem; }
summary { cursor: pointer; }
summary b { display: inline-block; min-width: 4rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid var(--line); padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; }
"""
_MAX_DEPTH = 4


def endpoints(told: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the two endpoints that tell of others, and of themselves."""

    async def tell(_: Request, __: Service) -> Response:
        return json_response(document_of(everything, __version__))

    async def show(_: Request, __: Service) -> Response:
        page = page_of(document_of(everything, __version__))
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    own = (_endpoint("/openapi.json", "The endpoints, as OpenAPI", tell), _endpoint("/docs", "The same to read", show))
    everything = (*told, *own)
    return own


def _endpoint(path: str, summary: str, handler: Handler) -> Endpoint:
    kind = "application/json" if path.endswith(".json") else "text/html"
    return Endpoint("GET", path, summary, handler, kind=kind, tags=("server",))


def page_of(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as a page that needs nothing else."""
    schemas = document["components"]["schemas"]
    parts = "".join(
        _operation(method, path, operation, schemas)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    info = document["info"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>llmrun {_text(info['version'])}: endpoints</title><style>{_STYLE}</style>"
        f"<h1>llmrun {_text(info['version'])}</h1><p>{_text(info['description'])}</p>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
        f"<main>{parts}</main></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [
        (parameter["name"], "text", parameter["required"], f"in the {parameter['in']}")
        for parameter in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        rows += _fields(body, schemas)
    statuses = ", ".join(operation["responses"])
    kinds = ", ".join(operation["responses"]["200"]["content"])
    table = "".join(
        f"<tr><td><code>{_text(name)}</code><td>{_text(kind)}<td>{'required' if needed else ''}<td>{_text(about)}"
        for name, kind, needed, about in rows
    )
    head = "<tr><th>Field<th>Type<th><th>" if rows else ""
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{_text(path)}</code> {_text(operation['summary'])}</summary>"
        f"<table>{head}{table}</table><p>Answers as {_text(kinds)}; statuses {_text(statuses)}.</details>"
    )


def _fields(
    schema: dict[str, Any], schemas: dict[str, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, str, bool, str]]:
    """Give the fields of an object: name, type, whether it is required, what it is by default."""
    schema = _resolved(schema, schemas)
    if depth >= _MAX_DEPTH:
        return
    for name, field in schema.get("properties", {}).items():
        default = f"default {field['default']!r}" if "default" in field and field["default"] is not None else ""
        yield f"{prefix}{name}", _kind(field, schemas), name in schema.get("required", ()), default
        inner = _resolved(field, schemas)
        inner = _resolved(inner.get("items", inner), schemas) if isinstance(inner.get("items", {}), dict) else inner
        if inner.get("properties"):
            yield from _fields(inner, schemas, f"{prefix}{name}.", depth + 1)


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(part, schemas) for part in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'], schemas)}"
    return str(schema.get("type", "any"))


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: dict[str, Any] = schemas[name] if name else schema
    return found


def _text(value: object) -> str:
    return html.escape(str(value))
