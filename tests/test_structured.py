"""worker.grammar, worker.sampling: answers held to a grammar or a schema by the real engine, and what that survives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Grammar
from llmrun.errors import EngineError, UsageError
from llmrun.sampling import Sampling
from tests.conftest import ask, chunks, request
from tests.schemas import schemas
from tests.thinking_models import QWEN3, write_script

WILD = Sampling(temperature=3, top_k=0, top_p=1, min_p=0)
VALIDATOR = jsonschema.Draft202012Validator


def gbnf(text: str) -> Grammar:
    return Grammar("gbnf", text)


def answer(engine: Engine, grammar: Grammar, seed: int = 1, **options: Any) -> tuple[str, Chunk]:
    wild = Sampling(**{name: getattr(WILD, name) for name in ("temperature", "top_k", "top_p", "min_p")}, seed=seed)
    got = chunks(engine, request("what is a kv cache", **({"sampling": wild, "grammar": grammar} | options)))
    return "".join(chunk.text for chunk in got), got[-1]


def test_an_answer_is_one_that_the_grammar_allows(guide: Engine) -> None:
    texts = {answer(guide, gbnf('root ::= ("yes" | "no") ", " [0-9]{2}'), seed)[0] for seed in range(8)}
    assert all(text[:-2] in ("yes, ", "no, ") and text[-2:].isdigit() for text in texts)
    assert len(texts) > 2


def test_a_seed_repeats_an_answer_that_is_held_to_a_grammar(guide: Engine) -> None:
    grammar = gbnf("root ::= [a-z]{20}")
    assert answer(guide, grammar, 5)[0] == answer(guide, grammar, 5)[0] != answer(guide, grammar, 6)[0]


def test_a_grammar_that_lets_everything_through_changes_no_answer(guide: Engine) -> None:
    free = ask(guide, "what is a kv cache")
    assert ask(guide, "what is a kv cache", grammar=gbnf(r"root ::= [^\x00]*")) == free


def test_a_repeat_penalty_counts_only_what_was_written(guide: Engine) -> None:
    sampling = Sampling(temperature=1, repeat_penalty=1.5, seed=3)
    text, last = answer(guide, gbnf("root ::= [ab]{30}"), sampling=sampling)
    assert (len(text), set(text), last.finish_reason) == (30, {"a", "b"}, "stop")


@pytest.mark.parametrize("seed", range(4))
def test_characters_of_many_bytes_are_written_whole(guide: Engine, seed: int) -> None:
    """The vocabulary has single bytes: half a character, an overlong one and a surrogate could all be put together."""
    text, last = answer(guide, gbnf(r"root ::= [^\x00-\x7F]{12} [^\x00-\x7F]?"), seed, max_tokens=100)
    assert last.finish_reason == "stop"
    assert len(text) in (12, 13)
    assert "\ufffd" not in text


def test_an_answer_that_was_cut_off_says_so(guide: Engine) -> None:
    text, last = answer(guide, Grammar("json_schema", '{"type": "string", "minLength": 500}'), max_tokens=5)
    assert (text[0], last.finish_reason) == ('"', "length")


@pytest.mark.parametrize("grammar", [gbnf("root ::= a"), Grammar("json_schema", '{"not": {}}')])
def test_a_grammar_that_is_refused_leaves_the_engine_alive(guide: Engine, grammar: Grammar) -> None:
    with pytest.raises(UsageError):
        answer(guide, grammar)
    assert ask(guide, "what is a kv cache")


def test_a_grammar_with_ever_more_readings_is_given_up(start_engine: Callable[..., Engine], guide_file: Path) -> None:
    engine = start_engine(guide_file)
    doubling = 'root ::= "x" root "a" | "x" root "b" | "x" root "c" | "x" root "d" | "xxxxxxxxxxxx"'
    with pytest.raises(UsageError, match="too many ways"):
        answer(engine, gbnf(doubling), 0)
    assert ask(engine, "what is a kv cache")


def test_a_vocabulary_that_lacks_the_characters_is_an_error(
    start_engine: Callable[..., Engine], tiny_model: Path
) -> None:
    engine = start_engine(tiny_model)
    with pytest.raises(EngineError, match="no token of this model"):
        answer(engine, gbnf(r"root ::= [\uD800-\uDFFF]"))
    assert not engine.has_ended


def check_valid(text: str, schema: Any) -> None:
    VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))


@given(schemas(), st.integers(0, 999))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@example({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "null"}}, 3)
def test_an_answer_that_ends_by_itself_satisfies_its_schema(guide: Engine, schema: Any, seed: int) -> None:
    try:
        text, last = answer(guide, Grammar("json_schema", json.dumps(schema)), seed, max_tokens=100)
    except UsageError:  # says which keyword it is; test_schema_grammar has those
        return
    if last.finish_reason == "stop":
        check_valid(text, schema)


PERSON = {
    "$defs": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"},
        "pet": {
            "oneOf": [
                {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}},
                 "required": ["kind", "lives"]},
                {"properties": {"kind": {"const": "dog"}, "name": {"$ref": "#/$defs/name"}}, "required": ["kind"]},
            ]
        },
    },
    "type": "object",
    "properties": {
        "name": {"$ref": "#/$defs/name"},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "exclusiveMinimum": 0.3, "maximum": 2.72},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "minItems": 1, "maxItems": 3},
        "mail": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
    },
    "required": ["name", "born", "height", "pets"],
    "additionalProperties": False,
}  # fmt: skip


def test_a_schema_as_people_write_it_is_satisfied_by_every_answer(guide: Engine) -> None:
    grammar = Grammar("json_schema", json.dumps(PERSON))
    answers = [answer(guide, grammar, seed, max_tokens=400) for seed in range(6)]
    whole = [text for text, last in answers if last.finish_reason == "stop"]
    assert len(whole) >= 4
    for text in whole:
        check_valid(text, PERSON)
        assert list(json.loads(text))[:4] == ["name", "born", "height", "pets"]


# The prompt opens the thought, as DeepSeek R1's does
OPENED = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}{#- </think> #}"""


@pytest.mark.parametrize(
    "script",
    [("hmm", " so", "</think>", "nonsense"), ("hmm", " so", "</think", ">tr", "nonsense")],
    ids=["its own token", "a token that goes on"],
)
def test_a_thought_is_free_and_the_answer_behind_it_is_held(
    start_engine: Callable[..., Engine], tmp_path: Path, script: tuple[str, ...]
) -> None:
    engine = start_engine(write_script(tmp_path / "thinks.gguf", OPENED, script))
    wanted = request("does it fit?", grammar=Grammar("json_schema", '{"type": "boolean"}'), max_tokens=30)
    got = chunks(engine, wanted)
    thoughts = "".join(chunk.text for chunk in got if chunk.thought)
    text = "".join(chunk.text for chunk in got if not chunk.thought)
    assert (thoughts, text in ("true", "false"), got[-1].finish_reason) == ("hmm so", True, "stop")


def test_marks_of_thoughts_are_text_within_json(start_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start_engine(write_script(tmp_path / "thinks.gguf", QWEN3, ("hmm", "</think>")))
    schema = Grammar("json_schema", '{"const": "<think>a</think>b"}')
    assert ask(engine, "hi", grammar=schema) == '"<think>a</think>b"'


@pytest.mark.parametrize(("variables", "wanted"), [({}, "Hm, so."), ({"enable_thinking": False}, "")])
def test_json_is_thought_over_as_any_answer_is(
    start_engine: Callable[..., Engine], tmp_path: Path, variables: dict[str, bool], wanted: str
) -> None:
    """A thought that the model begins itself is none of the JSON; one that the prompt has closed is not begun again."""
    script = ("<think>", "Hm", ", so.", "</think>", "\n\n", "nonsense")
    engine = start_engine(write_script(tmp_path / "thinks.gguf", QWEN3, script, ("<think>", "</think>")))
    schema = Grammar("json_schema", '{"type": "boolean"}')
    got = chunks(engine, request("does it fit?", grammar=schema, variables=variables, max_tokens=30))
    thoughts = "".join(chunk.text for chunk in got if chunk.thought)
    text = "".join(chunk.text for chunk in got if not chunk.thought)
    assert (thoughts, text in ("true", "false"), got[-1].finish_reason) == (wanted, True, "stop")
