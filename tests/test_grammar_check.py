"""Grammars and schemas of clients: compiled in a process that may die of them, bounded, remembered."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from llmrun.embedded import embedded_file
from llmrun.engine.grammar_check import compile_grammar
from llmrun.engine.protocol import Grammar
from llmrun.errors import LLMRunError, UsageError
from llmrun.server.grammars import Grammars, check_repetitions

GUIDE = embedded_file("Q8_0")
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}}, "required": ["name"]}
# llama.cpp follows every way through what may be nothing: it never comes to an end with the first token
HOSTILE = Grammar("gbnf", "root ::= " + " ".join(['"a"?'] * 5000))


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def test_a_schema_comes_back_as_the_grammar_that_the_worker_takes() -> None:
    compiled = compile_grammar(GUIDE, schema(PERSON))
    assert compiled.kind == "gbnf"
    assert '"\\"name\\""' in compiled.text


def test_a_grammar_that_is_none_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match="line 1: the rule 'x' is used and not there"):
        compile_grammar(GUIDE, Grammar("gbnf", "root ::= x"))


def test_a_hostile_grammar_is_the_death_of_its_own_process_only() -> None:
    before = os.getpid()
    with pytest.raises(UsageError, match="takes too much time or memory"):
        compile_grammar(GUIDE, HOSTILE)
    assert os.getpid() == before
    assert compile_grammar(GUIDE, Grammar("gbnf", 'root ::= "a"')).text == 'root ::= "a"'


def test_a_grammar_is_compiled_once_however_many_ask_for_it() -> None:
    async def ask() -> list[Grammar]:
        grammars = Grammars()
        asked = [grammars.checked(schema(PERSON), GUIDE) for _ in range(8)]
        found = await asyncio.gather(*asked)
        return [*found, await grammars.checked(schema(PERSON), GUIDE)]

    found = asyncio.run(ask())
    assert all(grammar is found[0] for grammar in found)


def test_one_who_asked_first_and_left_takes_it_from_nobody() -> None:
    async def ask() -> Grammar:
        grammars = Grammars()
        first = asyncio.create_task(grammars.checked(schema(PERSON), GUIDE))
        await asyncio.sleep(0)
        second = asyncio.create_task(grammars.checked(schema(PERSON), GUIDE))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(ask()).kind == "gbnf"


def test_a_refusal_that_is_remembered_holds_on_to_nobody_who_got_it() -> None:
    async def depths() -> list[int]:
        grammars, found = Grammars(), list[int]()
        for _ in range(5):
            with pytest.raises(UsageError) as refused:
                await grammars.checked(Grammar("gbnf", "root ::= x"), GUIDE)
            found.append(len(refused.traceback))
        return found

    assert len(set(asyncio.run(depths())[1:])) == 1


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("gbnf", 'root ::= "a"{1001}'),
        Grammar("gbnf", 'root ::= "a"{ 2 , 99999999999999999999 }'),
        Grammar("gbnf", "root ::= [}]{0,1001} # {1}"),
        schema({"type": "string", "maxLength": 1001}),
        schema({"type": "array", "minItems": 1e300}),
        schema({"properties": {"a": {"items": {"maxProperties": 5000}}}}),
        schema({"type": "string", "pattern": "^a{1,2000}$"}),
        schema({"$defs": {"a": {"anyOf": [{"minLength": 1001}]}}}),
    ],
)
def test_more_than_a_thousand_repetitions_are_refused(grammar: Grammar) -> None:
    with pytest.raises(UsageError, match="repeats something"):
        check_repetitions(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("gbnf", 'root ::= "{2000}" [{5000}] "a"{1000} # {9999}'),
        schema({"properties": {"maxLength": {"type": "integer"}}}),
        schema({"enum": [{"maxLength": 5000}]}),
        schema({"type": "string", "maxLength": 1000, "pattern": "^a{1000}$"}),
        schema({"maxLength": True}),
    ],
)
def test_what_only_looks_like_it_is_not(grammar: Grammar) -> None:
    check_repetitions(grammar)


def test_more_than_64_kib_are_not_looked_at() -> None:
    async def ask(grammar: Grammar) -> None:
        await Grammars().checked(grammar, GUIDE)

    with pytest.raises(UsageError, match=r"64\.0 KiB"):
        asyncio.run(ask(Grammar("gbnf", 'root ::= "é" #' + "é" * 32768)))
    for text in ("[" * 60_000, "{", "\ud800"):
        with pytest.raises(LLMRunError):
            asyncio.run(ask(Grammar("json_schema", text)))
