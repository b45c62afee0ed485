"""The real program on a Hub: from a name to an answer, with few requests, and none for what is here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrun.embedded import embedded_file
from tests.conftest import clean_environment
from tests.hub_server.content import of_file
from tests.hub_server.fault import Fault
from tests.hub_server.repo import Repo
from tests.hub_server.repos import (
    gated_repo,
    guide_repo,
    large_repo,
    many_quants_repo,
    raw_split_repo,
    split_repo,
    vision_repo,
)
from tests.hub_server.server import HubServer

Program = Callable[..., subprocess.CompletedProcess[str]]

SAYS = "The KV cache keeps"  # guide's answer to QUESTION begins so
QUESTION = "what is a kv cache?"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def many() -> Repo:
    """A repository with 25 quantizations of 8 billion weights."""
    return many_quants_repo()


@pytest.fixture
def hub(many: Repo) -> Iterator[HubServer]:
    with HubServer() as started:
        for repo in (guide_repo(), split_repo(), vision_repo(), gated_repo(), raw_split_repo(), many):
            started.add(repo)
        yield started


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Program:
    """Runs llmrun as a new user would, with this Hub for the real one."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(hub, tmp_path) | variables,
            check=False,
        )

    return run


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    told = hub.environment(home)
    return clean_environment(home) | {name: told[name] for name in told if name.startswith(("HF_", "NO_PROXY"))}


def wire(hub: HubServer) -> list[tuple[str, str, int]]:
    return [(asked.origin, asked.method, asked.status) for asked in hub.log]


# from a name to an answer


def test_a_repository_is_listed_planned_fetched_and_answers(hub: HubServer, program: Program) -> None:
    done = program("run", "guide/guide-GGUF", QUESTION)
    assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
    assert "guide-Q8_0.gguf: 4.9 MiB in" in done.stderr
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
        assert about["memory"]["total"] == pytest.approx(real["memory"]["total"], rel=2e-3)


def test_show_is_a_contract(program: Program) -> None:
    found = shown(program, "guide/guide-GGUF")
    assert sorted(found) == ["chosen", "model", "n_ctx", "repository", "sidecars", "unusable", "variants"]
    assert sorted(found["repository"]) == ["commit", "gated", "license", "repo_id"]
    assert sorted(found["variants"][0]) == sorted(
        (
            *("bpw", "decode", "exact", "files", "here", "loss", "loss_class", "memory", "n_gpu_layers", "quant"),
            *("size", "where"),
        )
    )
    assert sorted(found["variants"][0]["files"][0]) == ["name", "sha256", "size"]
    assert [row["quant"] for row in found["variants"]] == ["F16", "Q8_0", "Q4_K_M"]
    assert {row["where"] for row in found["variants"]} == {"CPU"}


def test_show_fits_a_terminal_and_marks_what_would_be_taken(program: Program) -> None:
    done = program("show", "acme/Many-8B-GGUF")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("> ") for line in lines) == 1
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
    assert [text.partition(" ")[0] for text in found["sidecars"]] == [
        "mmproj-model-f16.gguf",
        "mtp-vision.gguf",
        "vision-imatrix.gguf",
    ]


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


# what goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("acme/none-GGUF",), 5, "acme/none-GGUF does not exist on the Hub, or is private"),
        (("guide/guide-GGUF@v9",), 5, "guide/guide-GGUF has no such revision"),
        (("guide/guide-GGUF:Q5_K_M",), 5, "there is no quantization Q5_K_M"),
        (("guide/guide-GGUF:none.gguf",), 5, "there is no file none.gguf"),
        (("acme/gated-GGUF",), 4, "acme/gated-GGUF is gated"),
        (("acme/old-GGUF",), 6, "nothing in acme/old-GGUF can be run"),
        (("qwen3:8c",), 5, "qwen3:8c"),
        (("guide/guide-GGUF", "--offline"), 4, "guide/guide-GGUF is not here"),
        (("https://example.com/guide/guide-GGUF",), 2, "example.com"),
    ],
    ids=str,
)
def test_every_mistake_has_its_message(
    hub: HubServer, program: Program, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = program("run", arguments[0], QUESTION, *arguments[1:])
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert hub.requests("cdn") == []


def test_a_hub_that_is_down_is_said_to_be_at_once(hub: HubServer, program: Program) -> None:
    hub.close()
    done = program("run", "guide/guide-GGUF", QUESTION)
    assert done.returncode == 4
    assert "cannot be reached" in done.stderr


def test_a_hub_that_is_out_of_order_for_a_moment_is_asked_again(hub: HubServer, program: Program) -> None:
    hub.faults += [Fault("hub", path="/api/models", status=503), Fault("hub", path="/tree/", status=429)]
    assert program("run", "guide/guide-GGUF", QUESTION).stdout.startswith(SAYS)


@pytest.mark.parametrize(
    "path", ["../../evil-Q8_0.gguf", "/tmp/evil-Q8_0.gguf", "a\\evil-Q8_0.gguf", "C:evil-Q8_0.gguf"]
)
def test_a_path_that_leads_away_is_refused_before_anything_is_written(
    hub: HubServer, program: Program, tmp_path: Path, path: str
) -> None:
    hub.add(Repo("evil/evil-GGUF", {path: of_file(embedded_file("Q8_0"))}))
    done = program("pull", "evil/evil-GGUF")
    assert done.returncode == 6
    assert "nothing in evil/evil-GGUF can be run" in done.stderr
    assert list(tmp_path.rglob("*evil*")) == []


def test_names_on_the_hub_reach_no_terminal_as_they_are(hub: HubServer, program: Program) -> None:
    hub.add(Repo("evil/evil-GGUF", {"evil\x1b[31m-Q8_0.gguf": of_file(embedded_file("Q8_0"))}, license="mit\x1b[2J"))
    done = program("show", "evil/evil-GGUF")
    assert CONTROL.search(done.stdout + done.stderr) is None


def test_a_token_is_sent_to_the_hub_alone(hub: HubServer, program: Program) -> None:
    done = program("run", "acme/gated-GGUF", QUESTION, HF_TOKEN="hf_good")
    assert done.stdout.startswith(SAYS), done.stderr
    assert {asked.authorization for asked in hub.requests("hub")} == {"Bearer hf_good"}
    assert {asked.authorization for asked in hub.requests("cdn")} == {None}
    assert "hf_good" not in done.stdout + done.stderr


def test_a_bad_token_is_said_to_be_one(program: Program) -> None:
    done = program("run", "guide/guide-GGUF", QUESTION, HF_TOKEN="hf_wrong")
    assert done.returncode == 4
    assert "does not know the token" in done.stderr
    assert "hf_wrong" not in done.stderr


def test_a_model_of_ollama_is_used_by_its_name(hub: HubServer, program: Program, tmp_path: Path) -> None:
    """So that nobody fetches twice; and its files stay as they are."""
    models = tmp_path / "ollama"
    make_ollama_model(models, "tiny", "1b", embedded_file("Q8_0"))
    for name in ("tiny:1b", "ollama:tiny:1b"):
        done = program("run", name, QUESTION, OLLAMA_MODELS=str(models))
        assert (done.returncode, done.stdout.startswith(SAYS)) == (0, True), done.stderr
        assert "Ollama has tiny:1b already" in done.stderr
    assert hub.log == []


def make_ollama_model(folder: Path, name: str, tag: str, file: Path) -> None:
    """Lay a model down as Ollama does."""
    data = file.read_bytes()
    digest = of_file(file).sha256
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"sha256-{digest}").write_bytes(data)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)}
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))


def test_the_hubs_own_client_says_nothing_of_its_own(hub: HubServer, program: Program) -> None:
    """Its warnings would stand between ours."""
    hub.faults.append(Fault("hub", path="/tree/", status=503))
    done = program("pull", "guide/guide-GGUF:Q4_K_M")
    assert "Retrying" not in done.stderr
    assert os.environ.get("HF_HUB_VERBOSITY") is None
