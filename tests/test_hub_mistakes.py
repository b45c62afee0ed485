"""What people and Hubs do wrong, and what the real program says of it: one error, one hint, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from tests.hub_program import CONTROL, QUESTION, SAYS, Program
from tests.hub_server.content import of_file
from tests.hub_server.fault import Fault
from tests.hub_server.repo import Repo
from tests.hub_server.repos import embedding_repo
from tests.hub_server.server import HubServer

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


def test_what_ollama_has_can_be_shown(program: Program, tmp_path: Path) -> None:
    make_ollama_model(tmp_path / "ollama", "tiny", "1b", embedded_file("Q8_0"))
    done = program("show", "ollama:tiny:1b", OLLAMA_MODELS=str(tmp_path / "ollama"))
    assert done.returncode == 0, done.stderr


def test_offline_by_the_environment_is_offline(hub: HubServer, program: Program) -> None:
    program("pull", "guide/guide-GGUF:Q8_0")
    hub.clear_log()
    for command in ("pull", "show"):
        done = program(command, "guide/guide-GGUF", HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
    assert hub.log == []


def test_a_model_that_cannot_chat_is_refused_the_second_time_too(program: Program, hub: HubServer) -> None:
    hub.add(embedding_repo())
    for _ in range(2):
        done = program("plan", "acme/embed-GGUF")
        assert done.returncode == 6
        assert "cannot chat: this is a model for embeddings" in done.stderr


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


def test_the_hubs_own_client_says_nothing_of_its_own(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its warnings would stand between ours."""
    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)  # which our client sets for itself in whatever process it is
    hub.faults.append(Fault("hub", path="/tree/", status=503))
    done = program("pull", "guide/guide-GGUF:Q4_K_M")
    assert "Retrying" not in done.stderr
