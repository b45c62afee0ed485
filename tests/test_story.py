"""What is told while a model comes: lines that fit, once, and to whom they are of use."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from llmrun import pipeline
from llmrun.cli.machine_text import machine_line
from llmrun.cli.story import plan_notes, source_line, story_lines
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.hardware.what_if import parse_machine
from llmrun.pipeline import Planned
from llmrun.reference import GuideRef
from llmrun.settings import Constraints
from llmrun.site import Site
from llmrun.variant import ModelFile, RemoteFile, Variant
from tests.environments import clean_environment
from tests.hub_program import Program, environment
from tests.hub_server.server import HubServer

GIB = 1 << 30
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SITE = Site(HostMemory(16 * GIB, 12 * GIB), Threads(4, 4, "4 cores"))
CARD = Device("CUDA0", "CUDA", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB)
REMOTE = Variant("Q4_K_M", (ModelFile("x.gguf", GIB, RemoteFile("Qwen/Qwen3-4B-GGUF", "0" * 40, "x.gguf")),))


@pytest.fixture(scope="module")
def planned() -> Planned:
    return pipeline.plan(GuideRef("Q8_0"), on=parse_machine("ram=16GiB,vram=8GiB"))


def test_the_machine_is_one_line() -> None:
    assert machine_line(SITE) == "16.0 GiB RAM, 12.0 GiB of it free; 4 threads; no GPU in use"
    card = "CUDA0 (NVIDIA GeForce RTX 4090) with 23.0 GiB free"
    assert machine_line(SITE.with_devices([CARD])).endswith(f"; 4 threads; {card}")
    unified = replace(CARD, id="MTL0", name="Apple M3", unified=True)
    assert machine_line(SITE.with_devices([unified])).endswith("MTL0 (Apple M3) sharing the RAM")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_story_fits_a_terminal(planned: Planned, width: int) -> None:
    lines = story_lines("guide", planned, width)
    assert max(map(len, lines)) < min(width, 81)
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["machine", "model", "runs", "speed"]


def test_the_story_of_a_model_on_the_cpu_is_four_lines() -> None:
    planned = pipeline.plan(GuideRef("Q8_0"), on=parse_machine("ram=16GiB"))
    slower = (
        replace(planned.plan, speed=replace(planned.plan.speed, decode=7.0, prefill=27.0))
        if planned.plan.speed
        else None
    )
    assert slower is not None
    assert len(story_lines("guide", replace(planned, plan=slower))) == 4


def test_the_story_says_what_is_run_where_with_what_and_how_fast(planned: Planned) -> None:
    told = " ".join(" ".join(story_lines("guide", planned)).split())
    device = planned.plan.forecast.pools[1]
    assert "guide: 6.6M parameters, Q8_0 (near-lossless), 6.9 MiB here" in told
    assert "all layers on the GPU" in told
    assert f"free on {device.id}" in told
    assert "tokens a second writing" in told


def test_a_name_that_stands_for_a_repository_is_resolved_aloud() -> None:
    assert source_line("qwen3:4b", REMOTE) == "qwen3:4b is Qwen/Qwen3-4B-GGUF on the Hub"
    assert source_line("qwen/qwen3-4b-gguf:Q4_K_M", REMOTE) is None
    here = Variant("Q8_0", (ModelFile("x.gguf", GIB, Path("x.gguf")),))
    assert source_line("guide", here) is None


def test_what_goes_without_effect_is_noted(planned: Planned) -> None:
    assert list(plan_notes(planned.plan, Constraints(n_gpu_layers=3))) == []
    on_host = replace(planned.plan, where="host", loss=1.0, from_disk=True)
    assert len(list(plan_notes(on_host, Constraints(n_gpu_layers=3)))) == 3


def chat_in(environ: dict[str, str], columns: int, *arguments: str) -> str:
    child = pexpect.spawn(
        sys.executable,
        ["-P", "-m", "llmrun.cli.main", "chat", *arguments],
        env=environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": str(columns)},
        dimensions=(24, columns),
        encoding="utf-8",
        timeout=30,
    )
    child.expect(">>>")
    said = child.before or ""
    child.close(force=True)
    return ESCAPES.sub("", said)


@pytest.mark.parametrize("columns", [40, 80])
def test_a_first_run_tells_where_from_what_and_how_in_lines_that_fit(
    hub: HubServer, tmp_path: Path, columns: int
) -> None:
    said = chat_in(environment(hub, tmp_path), columns, "guide/guide-GGUF:Q8_0")
    lines = [line.strip() for line in re.split(r"[\r\n]+", said)]
    told = [line for line in lines if line.startswith(("looking", "machine", "model ", "runs ", "speed ", "/help"))]
    assert [line.split()[0] for line in told] == ["looking", "machine", "model", "runs", "speed", "/help"]
    assert "to be fetched" in " ".join(lines)
    ours = lines[: lines.index(told[-2])]
    assert max(map(len, ours)) <= columns


def test_a_chat_that_is_quiet_tells_nothing(tmp_path: Path) -> None:
    assert chat_in(clean_environment(tmp_path), 80, "guide", "--quiet").strip() == ""


def test_one_answer_of_a_model_that_is_here_is_all_that_is_said(
    llmrun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert llmrun("run", "guide", "hello").stderr == ""
    assert "machine  " in llmrun("run", "guide", "hello", "--verbose").stderr


def test_one_answer_of_a_model_that_has_to_be_fetched_tells_the_plan_first(program: Program) -> None:
    first = program("run", "guide/guide-GGUF:Q8_0", "hello")
    assert first.stderr.index("machine  ") < first.stderr.index("fetching ")
    assert program("run", "guide/guide-GGUF:Q8_0", "hello").stderr == ""
