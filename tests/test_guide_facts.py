"""guide's facts: nothing is wrong with the data, and what an answer tells one to type is there."""

from __future__ import annotations

import random
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from llmrun.chat.commands.table import COMMANDS
from llmrun.cli.main import app
from scripts.guide.exchange import is_right, normalized
from scripts.guide.facts import GUIDE, Fact, complaints, read_facts, read_held_out
from scripts.guide.follows import draw_follow, held_out_follows, read_follows
from scripts.guide.number_follows import draw_number_talk, held_out_talks
from scripts.guide.numbers import read_numbers

FACTS = read_facts()
PROGRAM: Any = typer.main.get_command(app)
WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
CLAUSE_ENDS = (",", ";", ":", ".", ")", "?")
# Options of other programs: llama.cpp, docker, sysctl's and Windows' tools, pip, cmake, vulkaninfo.
OTHERS = {"--cpu-moe", "--n-cpu-moe", "--gpus", "--network", "--update", "--shutdown", "--install", "--summary"}


def typed(answer: str) -> Iterator[list[str]]:
    """What follows each `llmrun` in `answer` up to the end of the clause, as a shell splits it."""
    words: list[str] | None = None
    for word in [*WORD.findall(answer), "|"]:
        if words is not None and (word in ("|", "llmrun") or not word.strip("()")):
            yield words
            words = None
        if word == "llmrun":
            words = []
        elif words is not None:
            words += shlex.split(word.rstrip("".join(CLAUSE_ENDS)) or word)
            if word.endswith(CLAUSE_ENDS):
                yield words
                words = None


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` begin with, and what follows."""
    command, rest = PROGRAM, list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def is_understood(command: Any, words: list[str]) -> bool:
    """Whether the program takes `words`; a missing argument is only not named."""
    try:
        command.make_context(command.name, [word for word in words if word not in ("--help", "-h")])
    except TyperException as error:
        return "missing" in str(error).lower()
    return True


def not_understood(words: list[str]) -> bool:
    """Whether `words` are a command line that is refused. After a command prose may follow, but no option."""
    command, rest = command_of(words)
    if command is PROGRAM:  # "llmrun takes ...", or an option of the program itself
        known = {option for param in PROGRAM.params for option in param.opts} | {"--help", "--install-completion"}
        return any((word.startswith("--") and word not in known) or re.fullmatch(r"\w+:\w+", word) for word in rest)
    if hasattr(command, "commands"):
        return any(word.startswith("-") for word in rest)
    taken = next((n for n in range(len(rest), -1, -1) if is_understood(command, rest[:n])), None)
    return taken is None or any(word.startswith("-") and len(word) > 1 for word in rest[taken:])


def every_option(command: Any) -> Iterator[str]:
    """The options of `command` and of all that it has."""
    for param in command.params:
        yield from (*param.opts, *param.secondary_opts)
    for inner in getattr(command, "commands", {}).values():
        yield from every_option(inner)


def test_nothing_is_wrong_with_the_data() -> None:
    held_out = read_held_out(GUIDE / "heldout" / "dev.toml") + read_held_out(GUIDE / "heldout" / "test.toml")
    assert list(complaints(FACTS, held_out)) == []


def test_no_two_answers_open_alike() -> None:
    openings = Counter(" ".join(fact.answer.lower().split()[:4]) for fact in FACTS)
    assert [opening for opening, count in openings.items() if count > 1] == []


@pytest.mark.parametrize("fact", [fact for fact in FACTS if "llmrun " in fact.answer], ids=lambda fact: fact.id)
def test_a_command_in_an_answer_is_understood(fact: Fact) -> None:
    assert [words for words in typed(fact.answer) if not_understood(words)] == []


def test_what_is_no_command_line_is_found() -> None:
    lines = [
        "llmrun chat --nope",
        "llmrun pull qwen3:8b --ctx many",
        "llmrun chatt qwen3:8b",
        "llmrun plan guide --ctx 0",
    ]
    assert [line for line in lines if not any(map(not_understood, typed(line)))] == []


def test_an_option_in_an_answer_is_there() -> None:
    known = {*every_option(PROGRAM), *OTHERS, "--help", "--install-completion"}
    named = {option: fact.id for fact in FACTS for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", fact.answer)}
    assert {option: name for option, name in named.items() if option not in known} == {}


def test_a_slash_command_in_an_answer_is_there() -> None:
    known = {name for command in COMMANDS for name in (command.name, *command.aliases)}
    pages = r"/(?:v1|api|health|metrics|docs|openapi|mnt|data|dev)\b"
    named = {
        name: fact.id
        for fact in FACTS
        if fact.topic in ("using", "serving", "commands", "trouble")
        for name in re.findall(r"(?<![\w.~/:$%*])/[a-z]+(?![\w/])", fact.answer)
        if not re.match(pages, name)
    }
    assert {name: fact for name, fact in named.items() if name not in known} == {}


FOLLOWS = read_follows(FACTS)


def test_every_follow_up_leads_from_facts_to_another() -> None:
    ids = {fact.id for fact in FACTS}
    for follow in FOLLOWS.all:
        assert {*follow.after, follow.fact} <= ids, follow
        assert follow.fact not in follow.after
        assert follow.questions


def test_after_a_fact_a_question_has_one_answer() -> None:
    answers: dict[tuple[str, str], str] = {}
    for follow in FOLLOWS.all:
        for told in follow.after:
            for question in follow.questions:
                assert answers.setdefault((told, normalized(question)), follow.fact) == follow.fact, question


def test_what_is_kept_for_evaluation_is_not_trained() -> None:
    held = {(told.answer, asked.question) for told, asked in held_out_follows(FOLLOWS)}
    assert 0.1 < len(held) / sum(len(follow.questions) for follow in FOLLOWS.all) < 0.2
    rng = random.Random(0)
    drawn = [draw_follow(FOLLOWS, rng) for _ in range(2000)]
    assert not {(told.answer, asked.question) for told, asked in drawn} & held


def test_a_sum_after_a_sum_keeps_what_was_not_changed() -> None:
    numbers, rng = read_numbers(FACTS), random.Random(0)
    for _ in range(300):
        first, *more = draw_number_talk(numbers, rng)
        assert more
        assert all(is_right(turn.answer, turn.expect) for turn in (first, *more))
    trained = {talk[1].question for talk in (draw_number_talk(numbers, rng) for _ in range(300))}
    assert not {talk[1].question for talk in held_out_talks(numbers, 40)} & trained
