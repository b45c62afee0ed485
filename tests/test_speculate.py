"""--speculate: guesses as they are asked for, and as they are planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.cli.wishes import chosen_draft
from llmrun.errors import UsageError
from llmrun.hardware.what_if import parse_machine
from llmrun.planning.plan import Plan, PlanWish
from llmrun.settings import DEFAULT_DRAFT, Constraints
from llmrun.settling import make_planner
from llmrun.site import site_of
from llmrun.speeds import Speeds
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS
from scripts.synthetic import LETTERS, TINY, write_model


def plan(name: str, machine: str, constraints: Constraints) -> Plan:
    """The plan for a model in one quantization, on a machine that is not here."""
    header, site = quantized(MODELS[name], "Q8_0"), site_of(parse_machine(machine))
    found = Variant("Q8_0", (ModelFile("Q8_0", header.file_size, Path("Q8_0")),))
    speeds = Speeds(None, site.threads.decode)
    return make_planner([(found, header)], site, constraints, PlanWish(), None, speeds).plan()


@pytest.mark.parametrize(
    ("text", "n"), [(None, None), ("auto", None), ("AUTO", None), ("off", 0), ("1", 1), ("63", 63)]
)
def test_it_is_asked_for_in_words_or_by_number(text: str | None, n: int | None) -> None:
    assert chosen_draft(text) == n


@pytest.mark.parametrize("text", ["", "0", "64", "-1", "on", "1.5", "７"])
def test_what_it_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--speculate"):
        chosen_draft(text)


def test_the_program_guesses_what_repeats_itself_and_says_so(llmrun: Callable[..., Any], tmp_path: Path) -> None:
    """Learned from nothing: the first guesses are watched, the next ones verified if that is faster here."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    following = dict(zip(LETTERS, [*LETTERS[1:], LETTERS[0]], strict=True))
    template = "{{ messages[-1].content }}"
    path = write_model(tmp_path / "m.gguf", replace(TINY, tied=False), chain=following, template=template)
    asked = ("run", str(path), letters, "--threads", "1", "--temp", "0", "--max-tokens", "200", "--json")
    found = {word: json.loads(llmrun(*asked, "--speculate", word).stdout) for word in ("auto", "off")}
    assert found["auto"]["answer"] == found["off"]["answer"] == (letters * 8)[:200]
    assert found["off"]["usage"]["drafted_tokens"] == 0
    assert found["auto"]["usage"]["accepted_tokens"] <= found["auto"]["usage"]["drafted_tokens"]


@pytest.mark.parametrize(
    ("name", "constraints", "n", "cause"),
    [
        ("llama-3.2-1b", Constraints(), DEFAULT_DRAFT, "DEFAULT"),
        ("gemma-3-1b", Constraints(), DEFAULT_DRAFT, "DEFAULT"),  # what slides out of a window was seen by no guess
        ("llama-3.2-1b", Constraints(n_draft_max=0), 0, "USER"),
        ("llama-3.2-1b", Constraints(n_draft_max=15), 15, "USER"),
        ("mamba-2.8b", Constraints(), 0, "MODEL"),
        ("qwen3-next-80b-a3b", Constraints(), 0, "MODEL"),
    ],
)
def test_guesses_have_room_where_the_model_can_forget_them(
    name: str, constraints: Constraints, n: int, cause: str
) -> None:
    found = plan(name, "ram=256GiB", constraints)
    assert (found.settings.n_draft_max, found.settings.n_outputs_max) == (n, 1 + n)
    assert {reason.cause for reason in found.reasons if reason.setting == "n_draft_max"} == {cause}


def test_guesses_cost_little_memory_and_share_what_there_is_with_conversations() -> None:
    with_guesses, without = (
        plan("llama-3.2-1b", "ram=16GiB", Constraints(n_draft_max=n, parallel=4)) for n in (DEFAULT_DRAFT, 0)
    )
    assert (with_guesses.settings.n_outputs_max, without.settings.n_outputs_max) == (8, 4)
    more = with_guesses.forecast.pools[0].used.total - without.forecast.pools[0].used.total
    assert 0 < more < 2 * 8 * 128_256 * 4  # a row of logits each, and one where they are computed
