"""What the real program says of a Hub's models before anything of them is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrun.embedded import embedded_file
from tests.hub_program import QUESTION, Program
from tests.hub_server.repo import Repo
from tests.hub_server.repos import (
    large_repo,
)
from tests.hub_server.server import HubServer

# before anything is fetched


def shown(program: Program, *arguments: str) -> dict[str, Any]:
    done = program("show", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_twenty_five_quantizations_cost_at_most_six_requests_and_20_mb(hub: HubServer, program: Program) -> None:
    found = shown(program, "acme/Many-8B-GGUF")
    assert len(found["variants"]) == 25
    assert found["chosen"] in {row["quant"] for row in found["variants"] if row["exact"]}
    read = sum(row["exact"] for row in found["variants"])
    assert len(hub.log) == 2 + 2 * read <= 6
    assert hub.bytes_sent <= 20_000_000


def test_what_was_read_once_is_not_read_again(hub: HubServer, program: Program) -> None:
    before = shown(program, "acme/Many-8B-GGUF")
    hub.clear_log()
    again = shown(program, "acme/Many-8B-GGUF")
    assert len(hub.log) == 2
    assert again["chosen"] == before["chosen"]


def test_exact_reads_every_header_and_finds_what_was_scaled_to_be_right(hub: HubServer, program: Program) -> None:
    scaled = shown(program, "acme/Many-8B-GGUF", "--ctx", "8192")
    exact = shown(program, "acme/Many-8B-GGUF", "--ctx", "8192", "--exact")
    assert all(row["exact"] for row in exact["variants"])
    for about, real in zip(scaled["variants"], exact["variants"], strict=True):
        assert about["quant"] == real["quant"]
        # what is copied into layouts of the processor's own depends on each tensor's type, and those are guessed
        assert about["memory"]["total"] == pytest.approx(real["memory"]["total"], rel=5e-3)


def test_show_is_a_contract(program: Program) -> None:
    found = shown(program, "guide/guide-GGUF")
    assert sorted(found) == ["chosen", "model", "n_ctx", "repository", "sidecars", "unusable", "variants"]
    assert sorted(found["repository"]) == ["commit", "gated", "license", "repo_id"]
    names = "bpw decode exact files here label loss loss_class memory n_gpu_layers quant size where"
    assert sorted(found["variants"][0]) == names.split()
    assert sorted(found["variants"][0]["files"][0]) == ["name", "sha256", "size"]
    assert [row["quant"] for row in found["variants"]] == ["F16", "Q8_0", "Q4_K_M"]
    assert {row["where"] for row in found["variants"]} == {"CPU"}


def test_where_the_name_says_nothing_the_header_does(hub: HubServer, program: Program) -> None:
    hub.add(Repo("acme/plain-GGUF", {"plain.gguf": embedded_file("Q4_K_M")}))
    (row,) = shown(program, "acme/plain-GGUF")["variants"]
    assert (row["quant"], row["label"], row["loss_class"]) == ("plain", "Q4_K_M", "good")


def test_show_fits_a_terminal_and_marks_what_would_be_taken(program: Program) -> None:
    done = program("show", "acme/Many-8B-GGUF")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    marked = [line.split()[1] for line in lines if line.startswith("> ")]
    assert len(marked) == 2, "its row and its bar"
    assert marked[0] == marked[1]
    assert any("≈" in line for line in lines)


def test_what_does_not_fit_is_said_before_a_byte_of_it_comes(hub: HubServer, program: Program) -> None:
    hub.add(large_repo("acme/Huge-GGUF", "Huge", "deepseek-v3", ("Q8_0", "Q4_K_M")))
    found = shown(program, "acme/Huge-GGUF")
    assert found["chosen"] is None
    assert {row["where"] for row in found["variants"]} == {"no"}
    done = program("run", "acme/Huge-GGUF", QUESTION)
    assert done.returncode == 3
    assert "does not fit" in done.stderr
    assert "fetching" not in done.stderr


def test_what_lies_beside_is_told_and_never_run(program: Program) -> None:
    found = shown(program, "acme/vision-GGUF")
    assert [row["quant"] for row in found["variants"]] == ["Q8_0"]
    beside = sorted(text.partition(" ")[0] for text in found["sidecars"])
    assert beside == ["mmproj-model-f16.gguf", "mtp-vision.gguf", "vision-imatrix.gguf"]


def test_a_plan_for_another_machine_needs_nothing_of_this(hub: HubServer, program: Program) -> None:
    done = program("plan", "acme/Many-8B-GGUF", "--on", "rtx4090+64GiB", "--json")
    found = json.loads(done.stdout)
    assert found["where"] == "devices"
    assert len(hub.log) <= 6


def test_search_finds_and_says_what_next(program: Program) -> None:
    done = program("search", "guide", "--json")
    (hit,) = json.loads(done.stdout)["repositories"]
    assert sorted(hit) == ["architecture", "downloads", "gated", "likes", "n_params", "repo_id", "size"]
    assert hit["repo_id"] == "guide/guide-GGUF"
    said = program("search", "guide")
    assert "guide/guide-GGUF" in said.stdout
    assert "`llmrun show guide/guide-GGUF`" in said.stderr
    assert program("search", "nothing of the kind").returncode == 5


def test_inspect_reads_the_header_alone(hub: HubServer, program: Program) -> None:
    found = json.loads(program("inspect", "guide/guide-GGUF:F16", "--json").stdout)
    assert found["path"].startswith("guide-F16.gguf of guide/guide-GGUF at ")
    assert len(hub.log) == 4
