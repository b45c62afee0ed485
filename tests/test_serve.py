"""`llmrun serve`: the real program, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


def test_it_says_that_it_is_well(server: Server) -> None:
    assert server.ask("/health") == (200, {"status": "ok"})


def test_it_answers_as_the_model_does_alone(server: Server) -> None:
    messages = [{"role": "user", "content": "What is a KV cache?"}]
    status, answer = server.ask("/v1/chat/completions", {"model": "guide", "messages": messages, "temperature": 0})
    assert status == 200
    assert "cache" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"] > answer["usage"]["prompt_tokens"] > 0


def test_what_is_no_request_is_refused_with_the_reason(server: Server) -> None:
    status, answer = server.ask("/v1/chat/completions", {"messages": "hello"})
    assert status == 400
    assert "$.messages" in answer["error"]["message"]


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as running:
        pass
    assert running.process.returncode == 0
