"""OpenAI's completions and log probabilities: the real client against the real server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serving import Server, serving

PROMPT = "The KV cache keeps"
QUESTION: Any = [{"role": "user", "content": "What is a KV cache?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_text_is_gone_on_with_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="guide", prompt=PROMPT, temperature=0)
    assert whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens <= 5  # the text alone, and nothing of a conversation
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (16, "length")
    stream = client.completions.create(
        model="guide", prompt=PROMPT, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_each_prompt_is_answered_n_times_after_its_echo(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "Quantization stores"]
    made = client.completions.create(model="guide", prompt=prompts, temperature=0, n=2, echo=True, max_tokens=4)
    alone = [client.completions.create(model="guide", prompt=p, temperature=0, max_tokens=4) for p in prompts]
    texts = [prompt + answer.choices[0].text for prompt, answer in zip(prompts, alone, strict=True)]
    assert [choice.text for choice in made.choices] == [text for text in texts for _ in range(2)]
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]


def test_a_prompt_may_be_of_tokens(client: openai.OpenAI) -> None:
    made = client.completions.create(model="guide", prompt=[100, 200, 300], temperature=0, max_tokens=4)
    assert made.usage is not None
    assert made.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError, match="there is no token 9999"):
        client.completions.create(model="guide", prompt=[100, 9999])


def test_a_model_that_fills_no_gaps_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot fill a gap"):
        client.completions.create(model="guide", prompt="def f(", suffix="return x")


def test_the_tokens_of_a_completion_are_its_text(client: openai.OpenAI) -> None:
    made = client.completions.create(model="guide", prompt=PROMPT, temperature=0, logprobs=2, max_tokens=8)
    logprobs = made.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert "".join(logprobs.tokens) == made.choices[0].text
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values())
        assert sum(map(math.exp, top.values())) <= 1


def test_log_probabilities_of_a_chat_are_those_of_its_answer(client: openai.OpenAI) -> None:
    wishes: Any = {"model": "guide", "messages": QUESTION, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**wishes).choices[0]
    assert whole.logprobs is not None
    content = whole.logprobs.content or []
    assert b"".join(bytes(entry.bytes or []) for entry in content).decode() == whole.message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in content)
    assert {len(entry.top_logprobs) for entry in content} == {3}
    chunks = client.chat.completions.create(**wishes, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [entry.token for part in parts if part is not None for entry in part.content or []]
    assert streamed == [entry.token for entry in content]
