"""The real program on a Hub: from a name to an answer, with few requests, and none for what is here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from tests.hub_program import QUESTION, SAYS, Program, environment, wire
from tests.hub_server.content import of_file
from tests.hub_server.fault import Fault
from tests.hub_server.repo import Repo
from tests.hub_server.repos import (
    guide_repo,
)
from tests.hub_server.server import HubServer

# from a name to an answer


def test_a_repository_is_listed_planned_fetched_and_answers(hub: HubServer, program: Program) -> None:
    done = program("run", "guide/guide-GGUF", QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert "guide-Q8_0.gguf: 6.9 MiB in" in done.stderr
    assert wire(hub) == [
        ("hub", "GET", 200),  # the repository
        ("hub", "GET", 200),  # its files
        ("hub", "HEAD", 302),  # one of them
        ("cdn", "GET", 206),  # its header
        ("hub", "HEAD", 302),
        ("cdn", "GET", 200),  # all of it
    ]


def test_what_is_here_answers_with_no_request_at_all(hub: HubServer, program: Program) -> None:
    program("pull", "guide/guide-GGUF")
    hub.clear_log()
    for more in ((), ("--offline",)):
        done = program("run", "guide/guide-GGUF", QUESTION, *more)
        assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert hub.log == []


def test_what_is_here_answers_while_the_hub_is_down(hub: HubServer, program: Program) -> None:
    program("pull", "guide/guide-GGUF:Q4_K_M")
    hub.close()
    done = program("run", "guide/guide-GGUF", QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr


def test_a_short_name_goes_all_the_way(hub: HubServer, program: Program) -> None:
    hub.add(guide_repo("unsloth/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct"))
    done = program("chat", "smollm2:135m", stdin=f"{QUESTION}\n")
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    hub.clear_log()
    assert program("run", "smollm2-135m", QUESTION).stdout.startswith(SAYS)
    assert hub.log == []


@pytest.mark.parametrize("model", ["acme/split-GGUF", "acme/vision-GGUF", "hf.co/guide/guide-GGUF:q4_k_m"])
def test_every_kind_of_repository_answers(hub: HubServer, program: Program, model: str) -> None:
    done = program("run", model, QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr


def test_an_address_of_this_hub_is_a_reference(hub: HubServer, program: Program) -> None:
    address = f"{hub.url}/guide/guide-GGUF/blob/main/guide-Q4_K_M.gguf"
    done = program("run", address, QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert {asked.path.rpartition("/")[2] for asked in hub.log if asked.method == "HEAD"} == {"guide-Q4_K_M.gguf"}


def test_a_plan_that_was_saved_runs_what_it_names(hub: HubServer, program: Program, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    program("plan", "guide/guide-GGUF:F16", "--save", str(saved))
    done = program("run", "guide/guide-GGUF", QUESTION, "--plan", str(saved))
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert {asked.path.rpartition("/")[2] for asked in hub.requests("hub") if asked.method == "HEAD"} >= {
        "guide-F16.gguf"
    }


def test_a_repository_that_was_renamed_is_followed(hub: HubServer, program: Program) -> None:
    hub.rename("guide/guide-GGUF", "guide/new-GGUF")
    done = program("run", "guide/guide-GGUF", QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert "guide/guide-GGUF is called guide/new-GGUF now" in done.stderr


# pull


def test_pull_says_where_the_file_is(hub: HubServer, program: Program) -> None:
    done = program("pull", "guide/guide-GGUF:F16", "--json")
    found = json.loads(done.stdout)
    assert sorted(found) == ["fits", "paths", "quant", "size"]
    (path,) = map(Path, found["paths"])
    assert path.read_bytes() == embedded_file("F16").read_bytes()
    hub.clear_log()
    assert json.loads(program("pull", "guide/guide-GGUF:F16", "--json").stdout) == found
    assert len(hub.log) == 2  # whether there is a newer one


def test_pull_into_a_folder(program: Program, tmp_path: Path) -> None:
    done = program("pull", "acme/split-GGUF", "--local-dir", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here").glob("*.gguf"))) == 3
    assert program("run", str(tmp_path / "here"), QUESTION).stdout.startswith(SAYS)


def test_pull_gets_the_newer_file(hub: HubServer, program: Program) -> None:
    hub.add(Repo("acme/new-GGUF", {"new-Q8_0.gguf": of_file(embedded_file("Q4_K_M"))}))
    program("pull", "acme/new-GGUF")
    hub.add(Repo("acme/new-GGUF", {"new-Q8_0.gguf": of_file(embedded_file("Q8_0"))}))
    assert json.loads(program("pull", "acme/new-GGUF", "--json").stdout)["size"] == embedded_file("Q8_0").stat().st_size
    hub.clear_log()
    assert program("run", "acme/new-GGUF", QUESTION).stdout.startswith(SAYS)
    assert hub.log == []


def test_a_killed_pull_goes_on_where_it_was(hub: HubServer, program: Program, tmp_path: Path) -> None:
    hub.faults.append(Fault("cdn", path="", times=100, slow=0.05))
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "pull", "guide/guide-GGUF:F16"]
    running = subprocess.Popen(command, env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)
    blobs = tmp_path / "huggingface" / "hub" / "models--guide--guide-GGUF" / "blobs"
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 1 << 20 for part in blobs.glob("*.incomplete")):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)  # another process: there is nothing to wait on but its file
    running.kill()
    running.wait()
    (part,) = blobs.glob("*.incomplete")
    had = part.stat().st_size
    hub.faults.clear()
    hub.clear_log()
    done = program("pull", "guide/guide-GGUF:F16")
    assert done.returncode == 0, done.stderr
    assert hub.requests("cdn")[-1].range == f"bytes={had}-"


def test_a_quantization_is_found_here_after_the_repository_moved_on(hub: HubServer, program: Program) -> None:
    """Each commit has only what was fetched of it."""
    program("pull", "guide/guide-GGUF:Q4_K_M")
    hub.add(Repo("guide/guide-GGUF", {**guide_repo().files, "README.md": b"new"}))
    program("pull", "guide/guide-GGUF:Q8_0")
    hub.clear_log()
    for quant in ("Q4_K_M", "Q8_0"):
        done = program("run", f"guide/guide-GGUF:{quant}", QUESTION, "--offline")
        assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert hub.log == []


def test_a_damaged_file_does_not_stand_in_the_way_of_a_whole_one(program: Program) -> None:
    for quant in ("Q8_0", "Q4_K_M"):
        (path,) = map(Path, json.loads(program("pull", f"guide/guide-GGUF:{quant}", "--json").stdout)["paths"])
        if quant == "Q8_0":
            blob = path.resolve()
            blob.write_bytes(blob.read_bytes()[:-1000])
    done = program("run", "guide/guide-GGUF", QUESTION, "--offline")
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert "note: passed over: " in done.stderr
