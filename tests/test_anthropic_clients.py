"""Anthropic's API, asked by Anthropic's own library, of the real server with the real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.serving import Server, serving

QUESTION: Any = [{"role": "user", "content": "What is a KV cache?"}]
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="guide", max_tokens=12, messages=QUESTION, extra_body=GREEDY)
    (block,) = message.content
    assert block.type == "text"
    assert "KV cache" in block.text
    assert (message.role, message.model, message.stop_reason) == ("assistant", "guide", "max_tokens")
    assert message.usage.output_tokens == 12


def test_what_was_asked_before_is_read_from_the_cache(client: anthropic.Anthropic) -> None:
    client.messages.create(model="guide", max_tokens=1, messages=QUESTION, extra_body=GREEDY)
    usage = client.messages.create(model="guide", max_tokens=1, messages=QUESTION, extra_body=GREEDY).usage
    counted = client.messages.count_tokens(model="guide", messages=QUESTION)
    assert usage.cache_read_input_tokens == counted.input_tokens - 1
    assert usage.input_tokens == 1


def test_a_stream_is_the_whole_answer_in_parts(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="guide", max_tokens=20, messages=QUESTION, extra_body=GREEDY)
    with client.messages.stream(model="guide", max_tokens=20, messages=QUESTION, extra_body=GREEDY) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == final.content[0].type == "text"
    assert "".join(texts) == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_events_come_as_anthropics_do(server: Server) -> None:
    body = {"model": "guide", "max_tokens": 2, "stream": True, "messages": QUESTION}
    _, text = server.ask("/v1/messages", body, {"anthropic-version": "2023-06-01"})
    events = [event.split("\n") for event in text.strip().split("\n\n")]
    kinds = [head.removeprefix("event: ") for head, _ in events]
    assert kinds == [json.loads(data.removeprefix("data: "))["type"] for _, data in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    begun, ended = (json.loads(events[index][1].removeprefix("data: ")) for index in (0, -2))
    told = {**ended["usage"], "output_tokens": 0}
    assert begun["message"]["usage"] == told
    assert told["input_tokens"] + told["cache_read_input_tokens"] > 0


def test_the_asynchronous_client_streams_too(server: Server) -> None:
    async def ask() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client,
            client.messages.stream(model="guide", max_tokens=9, messages=QUESTION, extra_body=GREEDY) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    assert "KV cache" in asyncio.run(ask())


def test_it_is_told_which_stop_sequence_ended_an_answer(client: anthropic.Anthropic) -> None:
    stops = ["never", " cache", " keeps"]
    message = client.messages.create(
        model="guide", max_tokens=50, messages=QUESTION, stop_sequences=stops, extra_body=GREEDY
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == "The KV"
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " cache")
    ended = client.messages.create(model="guide", max_tokens=200, messages=QUESTION, extra_body=GREEDY)
    assert (ended.stop_reason, ended.stop_sequence) == ("end_turn", None)


def test_an_answer_is_as_its_schema_wants(client: anthropic.Anthropic) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    message = client.messages.create(
        model="guide",
        max_tokens=100,
        messages=QUESTION,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert message.content[0].type == "text"
    assert isinstance(json.loads(message.content[0].text)["yes"], bool)


def test_tokens_are_counted_with_the_system_prompt(client: anthropic.Anthropic) -> None:
    alone = client.messages.count_tokens(model="guide", messages=QUESTION).input_tokens
    longer = client.messages.count_tokens(model="guide", messages=QUESTION, system="Be very brief.").input_tokens
    assert longer > alone > 0


def test_models_are_listed_as_anthropics(client: anthropic.Anthropic, server: Server) -> None:
    assert [model.id for model in client.models.list()][:1] == ["guide"]
    assert client.models.retrieve("guide").display_name == "guide"
    _, others = server.ask("/v1/models")
    assert others["object"] == "list"


LONG: Any = [{"role": "user", "content": "word " * 3000}]
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
IMAGE: Any = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "no model is called 'nobody'"),
        ({"messages": LONG}, anthropic.BadRequestError, "holds 2,048"),
        ({"thinking": THINKING}, anthropic.BadRequestError, "does not think"),
        ({"tools": [{"name": "x", "input_schema": {"type": "object"}}]}, anthropic.BadRequestError, "tools"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, anthropic.BadRequestError, "nothing is fetched"),
        ({"max_tokens": -1}, anthropic.BadRequestError, r"\$.max_tokens"),
    ],
)
def test_errors_are_the_librarys_own(
    client: anthropic.Anthropic, body: dict[str, Any], error: type[anthropic.APIStatusError], reason: str, stream: bool
) -> None:
    with pytest.raises(error, match=reason) as caught:
        client.messages.create(**{"model": "guide", "max_tokens": 9, "messages": QUESTION, "stream": stream} | body)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
