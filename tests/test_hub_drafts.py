"""The real program on a Hub with draft models: planned by their headers, checked before they are fetched, kept."""

from __future__ import annotations

import json

import pytest

from llmrun.embedded import embedded_file
from tests.hub_program import QUESTION, Program, wire
from tests.hub_server.repo import Repo
from tests.hub_server.repos import guide_repo
from tests.hub_server.server import HubServer

MODEL, DRAFT, PAIR = "guide/guide-GGUF:Q8_0", "acme/small-GGUF", "acme/pair-GGUF"


@pytest.fixture
def drafts(hub: HubServer) -> HubServer:
    """A repository of a smaller model, and one in which a draft lies beside the model."""
    hub.add(guide_repo(DRAFT, "small"))
    hub.add(
        Repo(PAIR, {"pair-Q8_0.gguf": embedded_file("Q8_0"), "dspark-pair-Q4_K_M.gguf": embedded_file("Q4_K_M")}),
    )
    return hub


def fetched(hub: HubServer) -> int:
    """How many files were asked for as a whole."""
    return sum(origin == "cdn" and status == 200 for origin, _, status in wire(hub))


def test_a_draft_is_planned_with_before_it_is_fetched(drafts: HubServer, program: Program) -> None:
    done = program("plan", MODEL, "--draft", DRAFT, "--json", "--ctx", "512")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["draft"]["quant"] == "Q4_K_M"
    assert plan["draft"]["why"] == "the smallest that loses little"
    assert plan["settings"]["draft"] == f"{DRAFT}:small-Q4_K_M.gguf"
    assert fetched(drafts) == 0
    emitted = program("plan", MODEL, "--draft", f"{DRAFT}:Q8_0", "--emit", "llama-server")
    assert "-md small-Q8_0.gguf --spec-type draft-simple" in emitted.stdout


def test_a_draft_is_fetched_with_its_model_and_kept(drafts: HubServer, program: Program) -> None:
    first = program("run", MODEL, QUESTION, "-n", "8", "--draft", DRAFT)
    assert first.returncode == 0, first.stderr
    assert "small-Q4_K_M.gguf" in first.stderr
    assert DRAFT in program("list").stdout
    drafts.clear_log()
    again = program("run", MODEL, QUESTION, "-n", "8", "--draft", DRAFT, "--offline")
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    assert drafts.log == []
    assert program("run", MODEL, QUESTION, "-n", "8", "--offline").stdout == first.stdout  # no word is the draft's


def test_the_draft_of_the_models_own_repository_is_found(drafts: HubServer, program: Program) -> None:
    done = program("run", PAIR, QUESTION, "-n", "4", "--draft", "auto")
    assert done.returncode == 0, done.stderr
    assert "dspark-pair-Q4_K_M.gguf" in done.stderr
    done = program("plan", "guide/guide-GGUF", "--draft", "auto")
    assert done.returncode == 2
    assert "no draft model comes with guide/guide-GGUF" in done.stderr


def test_a_saved_plan_finds_the_draft_that_was_not_here(drafts: HubServer, program: Program, tmp_path: object) -> None:
    path = f"{tmp_path}/plan.json"
    done = program("plan", MODEL, "--draft", DRAFT, "--ctx", "512", "--save", path)
    assert done.returncode == 0, done.stderr
    done = program("run", MODEL, QUESTION, "-n", "4", "--plan", path)
    assert done.returncode == 0, done.stderr
    assert "small-Q4_K_M.gguf" in done.stderr


def test_a_draft_of_another_family_is_refused_before_anything_is_fetched(drafts: HubServer, program: Program) -> None:
    done = program("run", MODEL, QUESTION, "--draft", "acme/Many-8B-GGUF:Q4_K_M")
    assert done.returncode != 0
    assert "cannot guess for the model" in done.stderr
    assert fetched(drafts) == 0


def test_a_draft_that_is_not_here_is_named_where_nobody_may_be_asked(drafts: HubServer, program: Program) -> None:
    assert program("pull", MODEL).returncode == 0
    done = program("run", MODEL, QUESTION, "--draft", DRAFT, "--offline")
    assert done.returncode == 4
    assert DRAFT in done.stderr
