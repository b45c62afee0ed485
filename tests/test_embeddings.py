"""Texts as vectors: by OpenAI's API and Ollama's, with their own clients, while answers are written."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import ollama
import openai
import pytest

from llmrun.embedded import embedded_file
from llmrun.errors import UsageError
from llmrun.server.embedding import base64_of, numbers_of
from llmrun.server.openai.embeddings import parse_input
from tests.serving import Server, serving

TEXTS = ["what is a kv cache", "what is a KV cache?", "how much memory does a 7B model need at 4 bits?"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1", "--parallel", "2") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_vectors_have_length_one_and_like_texts_like_ones(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="guide", input=TEXTS)
    vectors = [one.embedding for one in found.data]
    assert [one.index for one in found.data] == [0, 1, 2]
    assert all(math.isclose(cosine(vector, vector), 1, rel_tol=1e-5) for vector in vectors)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0


POOLED = """
import json, sys
from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama
model = Llama(sys.argv[1], embedding=True, pooling_type=LLAMA_POOLING_TYPE_MEAN, n_ctx=512, n_threads=1, verbose=False)
texts = json.loads(sys.argv[2])
print(json.dumps([[model.tokenize(text.encode()), model.embed(text, normalize=True)] for text in texts]))
"""


def test_a_vector_is_the_mean_that_llama_cpp_itself_makes(client: openai.OpenAI) -> None:
    """Through another way into llama.cpp: a context made for that, which pools in its graph."""
    command = [sys.executable, "-W", "ignore", "-c", POOLED, str(embedded_file("Q8_0")), json.dumps(TEXTS)]
    for tokens, theirs in json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout):
        (ours,) = client.embeddings.create(model="guide", input=[tokens]).data
        assert cosine(theirs, ours.embedding) > 0.9999


def test_a_text_alone_is_as_among_others_and_while_answers_are_written(server: Server, client: openai.OpenAI) -> None:
    alone = [client.embeddings.create(model="guide", input=text).data[0].embedding for text in TEXTS]
    body = {"messages": [{"role": "user", "content": "what is a kv cache"}], "temperature": 0}
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("/v1/chat/completions", body)))
    asking.start()
    together = client.embeddings.create(model="guide", input=TEXTS * 5)
    asking.join()
    assert server.ask("/v1/chat/completions", body)[1]["choices"] == answers[0][1]["choices"]  # type: ignore[index]
    for index, one in enumerate(together.data):
        assert cosine(one.embedding, alone[index % len(TEXTS)]) > 0.9999


def test_longer_texts_than_a_step_are_read_in_steps(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="guide", input=" ".join(TEXTS) * 4)
    assert found.usage.prompt_tokens > 100
    assert math.isclose(cosine(found.data[0].embedding, found.data[0].embedding), 1, rel_tol=1e-5)


@pytest.mark.parametrize("given", ["", [], ["a", ""], [1 << 30], "word " * 5000])
def test_what_cannot_be_embedded_is_refused(client: openai.OpenAI, given: object) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="guide", input=given)  # type: ignore[arg-type]


def test_ollamas_client_gets_the_same_vectors(server: Server, client: openai.OpenAI) -> None:
    ours = client.embeddings.create(model="guide", input=TEXTS)
    with ollama.Client(server.url) as other:
        found = other.embed(model="guide", input=TEXTS)
        old = other.embeddings(model="guide", prompt=TEXTS[0])
        assert other.embed(model="guide", input="word " * 5000).prompt_eval_count
    for theirs, one in zip(found.embeddings, ours.data, strict=True):
        assert cosine(list(theirs), one.embedding) > 0.9999
    assert cosine(list(old.embedding), ours.data[0].embedding) > 0.9999


def test_numbers_and_base64_are_the_same_vector() -> None:
    vector = np.array([0.6, -0.8], "<f4").tobytes()
    assert numbers_of(vector) == pytest.approx([0.6, -0.8])
    assert base64_of(vector) == "mpkZP83MTL8="


def test_texts_and_tokens_are_told_apart() -> None:
    assert parse_input("a") == ["a"]
    assert parse_input([1, 2]) == [[1, 2]]
    assert parse_input(["a", [1]]) == ["a", [1]]
    with pytest.raises(UsageError):
        parse_input(["a", 1])


def test_a_text_that_no_context_holds_is_not_even_tokenized(server: Server, client: openai.OpenAI) -> None:
    text = "hello " * 600_000
    with pytest.raises(openai.BadRequestError, match="3,600,000 characters"):
        client.embeddings.create(model="guide", input=text)
    with ollama.Client(server.url) as llama:
        cut = llama.embed("guide", text)
    assert 0 < (cut.prompt_eval_count or 0) <= 4096


def test_a_few_texts_have_a_turn_beside_a_great_many(client: openai.OpenAI) -> None:
    ended = list[str]()

    def embed(name: str, texts: list[str]) -> None:
        client.embeddings.create(model="guide", input=texts)
        ended.append(name)

    many = threading.Thread(target=embed, args=("many", ["many " * 100] * 100))
    many.start()
    embed("few", ["few"])
    many.join()
    assert ended == ["few", "many"]


def test_a_client_that_leaves_takes_its_texts_along(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).embeddings.create(model="guide", input=["many " * 100] * 1000)
    assert client.embeddings.create(model="guide", input="few").usage.prompt_tokens
