"""The real clients that people use, against the real server: openai, sync and async, and simonw's llm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serving import Server, serving

QUESTION: Any = [{"role": "user", "content": "What is a KV cache?"}]
COUNTING: Any = [{"role": "user", "content": "Tell me about quantization."}]
WILD = {"top_k": 0, "min_p": 0}  # guide is sure of what it says: this lets other tokens be drawn


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_client_lists_the_models_and_finds_one(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["guide"]
    assert client.models.retrieve("guide").id == "guide"


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'owner/other:Q4_K_M'"):
        client.models.retrieve("owner/other:Q4_K_M")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)


def test_a_stream_is_the_whole_answer_in_parts(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="guide", messages=QUESTION, temperature=0)
    stream = client.chat.completions.create(
        model="guide", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_seed_gives_the_same_answers_again_each_of_them_another(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        made = client.chat.completions.create(
            model="guide", messages=COUNTING, temperature=9.0, top_p=1.0, seed=7, n=3, max_tokens=12, extra_body=WILD
        )
        return [choice.message.content for choice in made.choices]

    first = ask()
    assert ask() == first
    assert len(set(first)) == 3
