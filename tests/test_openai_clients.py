"""The real clients that people use, against the real server: openai, sync and async, and simonw's llm."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import psutil
import pydantic
import pytest

from tests.environments import clean_environment
from tests.serving import Server, serving
from tests.vision_files import png

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
    assert next(model.id for model in client.models.list()) == "guide"
    assert client.models.retrieve("guide").id == "guide"


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="owner/other:Q4_K_M"):
        client.models.retrieve("owner/other:Q4_K_M")
    with pytest.raises(openai.NotFoundError, match="'gpt-4'"):
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


def test_an_answer_satisfies_the_schema_it_was_asked_for(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string", "maxLength": 20}, "bits": {"enum": [2, 4, 8]}},
        "required": ["topic", "bits"],
        "additionalProperties": False,
    }
    made = client.chat.completions.create(
        model="guide",
        messages=QUESTION,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "fact", "strict": True, "schema": schema}},
    )
    assert made.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(made.choices[0].message.content or ""), schema)


class Fact(pydantic.BaseModel):
    """What an answer is parsed into."""

    bits: int
    exact: bool


def test_an_answer_is_parsed_into_a_model_of_pydantic(client: openai.OpenAI) -> None:
    made = client.chat.completions.parse(model="guide", messages=QUESTION, temperature=0, response_format=Fact)
    assert isinstance(made.choices[0].message.parsed, Fact)


def test_an_answer_may_have_to_be_a_json_object(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model="guide", messages=QUESTION, temperature=0, max_tokens=400, response_format={"type": "json_object"}
    )
    if made.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(made.choices[0].message.content or ""), dict)
    assert (made.choices[0].message.content or "").startswith("{")


def test_a_stop_ends_the_answer_before_itself(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="guide", messages=QUESTION, temperature=0).choices[0]
    made = client.chat.completions.create(
        model="guide", messages=QUESTION, temperature=0, stop=["never said", " values"]
    ).choices[0]
    assert made.message.content == (whole.message.content or "").partition(" values")[0]
    assert made.finish_reason == "stop"


def test_an_answer_has_no_more_tokens_than_it_may(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="guide", messages=QUESTION, max_completion_tokens=5)
    assert made.usage is not None
    assert (made.usage.completion_tokens, made.choices[0].finish_reason) == (5, "length")


def test_a_biased_token_comes_and_penalties_drive_it_away(client: openai.OpenAI) -> None:
    """A bias of 60 against 2 for each time that a token came: some twenty times it has to come before another does."""

    def say(**wishes: Any) -> str:
        made = client.chat.completions.create(
            model="guide", messages=QUESTION, temperature=0, max_tokens=50, extra_body=wishes
        )
        return made.choices[0].message.content or ""

    alone = say(logit_bias={"302": 60})
    word = alone.split()[0]
    assert alone.split() == [word] * 50
    assert 15 <= say(logit_bias={"302": 60}, frequency_penalty=2).split().count(word) < 50
    several = {"302": 100, "304": 100, "310": 100, "319": 100}
    assert say(logit_bias=several, presence_penalty=2) != say(logit_bias=several)
    assert say(logit_bias={"302": 60}, presence_penalty=-2).split() == [word] * 50


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"n": 17}, r"\$\.n"),
        ({"messages": []}, r"\$\.messages"),
        ({"logit_bias": {"4608": 1}}, "has only 4,608"),
        ({"reasoning_effort": "high"}, "guide does not think"),
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}}, "leads nowhere"),
        ({"grammar": "root ::= ("}, "grammar, line 1"),
        ({"grammar": 'root ::= "' + "a" * (1 << 16) + '"'}, "at most 64"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "the context holds 2,048"),
        ({"mirostat": 2}, "mirostat"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_bad_request_that_says_why(
    client: openai.OpenAI, wishes: dict[str, Any], why: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(model="guide", messages=QUESTION, stream=stream, extra_body=wishes)


def test_an_image_is_refused_by_a_model_that_sees_nothing(client: openai.OpenAI) -> None:
    inside = "data:image/png;base64," + base64.b64encode(png(4, 4)).decode()
    for url, why in ((inside, "cannot be shown images"), ("https://example.org/a.png", "nothing is fetched")):
        image: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        with pytest.raises(openai.BadRequestError, match=why):
            client.chat.completions.create(model="guide", messages=[image])


def test_many_clients_of_one_loop_are_all_answered(server: Server) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one() -> str | None:
                made = await client.chat.completions.create(model="guide", messages=QUESTION, temperature=0)
                return made.choices[0].message.content

            return list(await asyncio.gather(*(one() for _ in range(5))))

    answers = asyncio.run(ask())
    assert len(set(answers)) == 1
    assert "cache" in (answers[0] or "")


ENDLESS: Any = {"logit_bias": {"1500": 100}, "n": 16}  # it says one word until the context is full: minutes


def test_a_client_that_goes_away_leaves_the_model_to_others(client: openai.OpenAI) -> None:
    """Whether it went in the middle of a stream or before anything came: what it asked for ends."""
    with client.chat.completions.create(model="guide", messages=QUESTION, stream=True, extra_body=ENDLESS) as stream:
        next(iter(stream))
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(model="guide", messages=QUESTION, extra_body=ENDLESS)
    patient = client.with_options(timeout=30)
    assert patient.chat.completions.create(model="guide", messages=QUESTION).choices[0].message.content


def test_a_worker_that_dies_ends_a_stream_with_the_error(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with (
            client,
            client.chat.completions.create(model="guide", messages=QUESTION, stream=True, extra_body=ENDLESS) as stream,
        ):
            parts = iter(stream)
            next(parts)
            (worker,) = psutil.Process(running.process.pid).children()
            worker.kill()
            with pytest.raises(openai.APIError, match="engine"):
                list(parts)


def run_llm(server: Server, home: Path, *flags: str) -> str:
    """What simonw's llm prints for the question, a new user's with this server as a model."""
    (home / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: guide\n  api_base: {server.url}/v1\n  supports_schema: true\n"
    )
    env = clean_environment(home) | {"LLM_USER_PATH": str(home)}
    command = [sys.executable, "-m", "llm", "-m", "mine", "-o", "temperature", "0", *flags, "What is a KV cache?"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_llm_streams_an_answer(server: Server, tmp_path: Path) -> None:
    assert "keys and values" in run_llm(server, tmp_path)


def test_llm_gets_an_answer_to_a_schema(server: Server, tmp_path: Path) -> None:
    answer = json.loads(run_llm(server, tmp_path, "--no-stream", "--schema", "bits int, exact bool"))
    assert (type(answer["bits"]), type(answer["exact"])) == (int, bool)
