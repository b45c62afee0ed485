"""Ollama's API, asked by Ollama's own library, of the real server with the real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.serving import Server, serving

QUESTION = [{"role": "user", "content": "What is a KV cache?"}]
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as made:
        yield made


def test_chat_answers_whole_and_as_a_stream(client: ollama.Client) -> None:
    whole = client.chat("guide", QUESTION, options=GREEDY)
    parts = list(client.chat("guide:latest", QUESTION, options=GREEDY, stream=True))
    assert "KV cache" in (whole.message.content or "")
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (whole.done_reason, whole.eval_count, whole.model) == ("length", 12, "guide")
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert (last.done_reason, last.eval_count, last.model) == ("length", 12, "guide:latest")
    assert None not in (last.total_duration, last.load_duration, last.eval_duration)
    assert (last.total_duration or 0) >= (last.eval_duration or 0) > 0
    assert last.prompt_eval_count == whole.prompt_eval_count


def test_a_stream_is_what_is_given_to_who_does_not_say(server: Server) -> None:
    _, text = server.ask("/api/chat", {"model": "guide", "messages": QUESTION, "options": GREEDY})
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) > 1
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_generate_answers_as_chat_does(client: ollama.Client) -> None:
    chatted = client.chat("guide", QUESTION, options=GREEDY)
    generated = client.generate("guide", "What is a KV cache?", options=GREEDY)
    assert generated.response == chatted.message.content
    parts = client.generate("guide", "What is a KV cache?", options=GREEDY, stream=True)
    assert "".join(part.response or "" for part in parts) == generated.response


def test_an_answer_stops_where_it_is_told_to(client: ollama.Client) -> None:
    options = {"temperature": 0, "stop": [" cache"]}
    answer = client.chat("guide", QUESTION, options=options)
    assert (answer.message.content, answer.done_reason) == ("The KV", "stop")


def test_the_same_seed_gives_the_same_answer(client: ollama.Client) -> None:
    options = {"temperature": 1.5, "seed": 11, "num_predict": 16}
    answers = {client.chat("guide", QUESTION, options=options).message.content for _ in range(3)}
    assert len(answers) == 1


def test_an_answer_is_as_its_schema_wants(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    answer = client.chat("guide", QUESTION, format=schema, options={"temperature": 0, "num_predict": 100})
    assert isinstance(json.loads(answer.message.content or "")["yes"], bool)
    anything = client.generate("guide", "Write JSON.", format="json", options={"temperature": 0, "num_predict": 200})
    assert anything.done_reason == "length" or isinstance(json.loads(anything.response or ""), dict)


def test_the_asynchronous_client_streams_too(server: Server) -> None:
    async def ask() -> str:
        async with ollama.AsyncClient(server.url) as client:
            parts = await client.chat("guide", QUESTION, options=GREEDY, stream=True)
            return "".join([part.message.content or "" async for part in parts])

    assert "KV cache" in asyncio.run(ask())


def test_models_are_listed_shown_and_seen_running(client: ollama.Client) -> None:
    client.generate("guide", keep_alive=-1)
    listed = {model.model: model for model in client.list().models}
    assert "guide:latest" in listed
    details = listed["guide:latest"].details
    assert details is not None
    assert (details.format, details.family, details.quantization_level) == ("gguf", "llama", "Q8_0")
    running = client.ps().models
    assert [(model.model, model.digest) for model in running] == [("guide:latest", listed["guide:latest"].digest)]
    assert running[0].context_length == 2048
    assert int(running[0].size or 0) > int(listed["guide:latest"].size or 0) > 0
    shown = client.show("guide:latest")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 2048
    assert shown.capabilities == ["completion"]
    assert shown.details == details
    assert shown.parameters is not None
    assert shown.parameters.splitlines()[0].split() == ["num_ctx", "2048"]
    assert shown.template


def test_a_model_is_loaded_and_unloaded_by_asking_nothing(client: ollama.Client) -> None:
    assert client.chat("guide", [], keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.chat("guide", [], keep_alive=0).done_reason == "unload"
    assert client.show("guide").capabilities == ["completion"]
    assert client.ps().models == []
    loaded = client.generate("guide", "", keep_alive="5m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    assert [model.model for model in client.ps().models] == ["guide:latest"]


def test_a_model_that_is_here_counts_as_pulled(client: ollama.Client) -> None:
    assert [part.status for part in client.pull("guide", stream=True)][-1] == "success"
    assert client.pull("guide:latest").status == "success"


@pytest.mark.parametrize(
    ("ask", "status", "reason"),
    [
        (lambda client: client.chat("nobody", QUESTION), 404, "no model is called 'nobody'"),
        (lambda client: next(client.chat("nobody", QUESTION, stream=True)), 404, "no model is called 'nobody'"),
        (lambda client: client.show("nobody"), 404, "model 'nobody' not found"),
        (lambda client: client.generate("nobody", keep_alive=0), 404, "model 'nobody' not found"),
        (lambda client: client.chat("guide", QUESTION, think=True), 400, "does not think"),
        (lambda client: client.generate("guide", "x", suffix="y"), 400, "cannot fill a gap"),
        (lambda client: client.generate("guide", "x", template="y"), 400, "template is there"),
        (lambda client: client.chat("guide", [{"role": "user", "content": "word " * 3000}]), 400, "holds 2,048"),
        (lambda client: next(client.generate("guide", "word " * 3000, stream=True)), 400, "holds 2,048"),
        (lambda client: client.pull("nobody"), 403, "`llmrun pull nobody`"),
        (lambda client: client.delete("guide"), 403, "`llmrun rm guide`"),
        (lambda client: client.copy("guide", "other"), 403, "copy is not had here"),
        (lambda client: client.create("other", from_="guide"), 403, "create is not had here"),
        (lambda client: client.push("guide"), 403, "push is not had here"),
    ],
)
def test_errors_are_the_librarys_own(client: ollama.Client, ask: Any, status: int, reason: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        ask(client)
    assert caught.value.status_code == status
    assert reason in caught.value.error


def test_the_version_is_one_that_clients_take(server: Server) -> None:
    status, answer = server.ask("/api/version")
    assert status == 200
    assert [part.isdigit() for part in answer["version"].split(".")] == [True] * 3
