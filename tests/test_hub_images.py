"""The real program on a Hub whose model can see: the projector planned by its header, fetched with the model, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from llmrun.gguf.source import read_header
from tests.hub_program import QUESTION, Program, wire
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer
from tests.vision_files import Eye, png, write_projector

NAME = "guide/seer-GGUF"


@pytest.fixture
def seeing(hub: HubServer, tmp_path: Path) -> Repo:
    """guide with a projector of random weights: it answers, though what it says of an image is noise."""
    base = embedded_file("Q8_0")
    eye = Eye(n_text=read_header(base).uint("llama.embedding_length"))
    projector = write_projector(tmp_path / "mmproj.gguf", eye)
    repo = Repo(
        NAME,
        {
            "seer-Q8_0.gguf": base,
            "mmproj-F32.gguf": b"GGUF, and never asked for",
            "mmproj-F16.gguf": projector.read_bytes(),
        },
    )
    hub.add(repo)
    return repo


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    path.write_bytes(png(64, 48))
    return str(path)


def test_a_projector_is_planned_with_by_its_header_alone(hub: HubServer, program: Program, seeing: Repo) -> None:
    plans = [json.loads(program("plan", NAME, "--json", *more).stdout) for more in ((), ("--projector", "auto"))]
    before, after = (plan["pools"][0]["used"] for plan in plans)
    assert after["weights"] > before["weights"]
    assert after["compute"] > before["compute"]
    assert plans[1]["settings"]["projector"] == "mmproj-F16.gguf"
    assert {status for _, method, status in wire(hub) if method == "GET"} <= {200, 206}
    assert not [asked for asked in wire(hub) if asked[0] == "cdn" and asked[2] == 200]  # nothing but ranges


def test_an_image_fetches_the_projector_once_and_words_fetch_none(
    hub: HubServer, program: Program, seeing: Repo, image: str
) -> None:
    words = program("run", NAME, QUESTION, "-n", "4")
    assert words.returncode == 0, words.stderr
    assert "mmproj" not in words.stderr
    shown = program("run", NAME, QUESTION, "-n", "4", "--image", image)
    assert shown.returncode == 0, shown.stderr
    assert "mmproj-F16.gguf" in shown.stderr
    hub.clear_log()
    again = program("run", NAME, QUESTION, "-n", "4", "--image", image, "--offline")
    assert (again.returncode, again.stdout) == (0, shown.stdout), again.stderr
    assert hub.log == []


def test_a_projector_that_is_not_here_is_named_where_nobody_may_be_asked(
    program: Program, seeing: Repo, image: str
) -> None:
    program("pull", NAME)
    done = program("run", NAME, QUESTION, "--image", image, "--offline")
    assert done.returncode == 4
    assert f"the mmproj file of {NAME}" in done.stderr


def test_a_repository_that_sees_nothing_says_so(program: Program, image: str) -> None:
    done = program("run", "guide/guide-GGUF", QUESTION, "--image", image)
    assert done.returncode == 2
    assert "guide/guide-GGUF cannot see images" in done.stderr
