"""A client that goes away in the middle of an answer: its place is free for the next, whichever API it spoke."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Server, serving

LONG = 100_000  # tokens, which take the model minutes: who waits for their end is not answered in time


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, endless_model: Path) -> Iterator[Server]:
    """A server that has one place, and a model that does not end."""
    home = tmp_path_factory.mktemp("home")
    with serving(home, str(endless_model), "--threads", "1", "--ctx", f"{LONG}", "--parallel", "1") as running:
        yield running


MESSAGES = [{"role": "user", "content": "hi"}]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages", {"max_tokens": LONG, "stream": True, "messages": MESSAGES}),
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/generate", {"prompt": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_whoever_goes_away_frees_its_place(server: Server, path: str, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "endless"} | body).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
        received = b""
        while b"tick" not in received:  # it writes
            part = connection.recv(4096)
            assert part, received
            received += part
    short = {"model": "endless", "prompt": "hi", "stream": False, "options": {"num_predict": 3}}
    status, answer = server.ask("/api/generate", short)
    assert (status, answer["eval_count"]) == (200, 3)
