"""A fault of ours in the server: whoever asked is told in the shape of their API, and the log says where it is."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from llmrun.server.app import make_app
from llmrun.server.endpoint import Service
from llmrun.server.watch import Told

MESSAGE = "llmrun met a fault of its own; its log says more"
SECRET = {"model": "secret", "messages": [{"role": "user", "content": "secret"}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/chat/completions", {"message": MESSAGE, "type": "server_error", "param": None, "code": None}),
        ("/v1/messages", {"message": MESSAGE, "type": "api_error"}),
        ("/api/chat", MESSAGE),
    ],
)
def test_a_fault_is_told_in_the_shape_of_the_api_and_where_it_is_in_the_log(path: str, answer: Any) -> None:
    nothing: Any = None  # in the place of a fleet: whatever is asked of it is a fault
    told, lines = list[str](), list[str]()
    app = make_app(Service(nothing), told=Told(lines.append, told.append))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, json=SECRET)

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["error"]) == (500, answer)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert len(told) == 1
    assert "AttributeError while answering POST" in told[0]
    assert "secret" not in str((told, lines))
