"""planning.plan_file, and the flags that write and replay a plan, or say it in llama.cpp's words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.planning.forecast import Forecast
from llmrun.planning.plan import Plan, Reason
from llmrun.planning.plan_file import SavedPlan, format_plan, parse_plan
from llmrun.settings import AFFINITIES, KV_TYPES, LOAD_MODES, RunSettings

Run = Callable[..., CompletedProcess[str]]

NAMES = ("CUDA0", "CUDA1", "rpc:127.0.0.1:50052")


@st.composite
def settings_of(draw: st.DrawFn) -> RunSettings:
    """Settings as plans have them: devices are named, and a split has a part for each."""
    devices = tuple(draw(st.lists(st.sampled_from(NAMES), unique=True)))
    parts = st.lists(st.integers(1, 50).map(float), min_size=len(devices), max_size=len(devices)).map(tuple)
    return RunSettings(
        n_ctx=draw(st.integers(1, 1 << 20)),
        n_seq_max=draw(st.integers(1, 256)),
        n_ubatch=draw(st.sampled_from((128, 512))),
        type_k=draw(st.sampled_from(KV_TYPES)),
        flash_attn=draw(st.none() | st.booleans()),
        devices=devices,
        n_gpu_layers=draw(st.integers(0, 100)),
        tensor_split=draw(st.none() | parts) if devices else None,
        load_mode=draw(st.sampled_from(LOAD_MODES)),
        repack=draw(st.booleans()),
        n_threads=draw(st.integers(1, 512)),
        affinity=draw(st.sampled_from(AFFINITIES)),
        n_draft_max=7,
        draft=draw(st.none() | st.just("/draft.gguf")),
    )


def plan_with(settings: RunSettings) -> Plan:
    forecast = Forecast(settings, (), "engine", None, None, 512, 4, 512, ())
    reasons = (Reason("n_ctx", "512", "USER", "as you said"),)
    return Plan("Q4_K_M", 0.03, "balanced", "good", "host", forecast, None, measured=False, reasons=reasons)


@given(settings_of(), st.integers(1, 1 << 50))
def test_a_plan_is_read_as_it_was_written(settings: RunSettings, size: int) -> None:
    assert parse_plan(format_plan(plan_with(settings), size, "guide")) == SavedPlan("Q4_K_M", size, settings)


def content(**changes: Any) -> str:
    """A plan's file in which some things are otherwise; settings are merged."""
    whole = json.loads(format_plan(plan_with(RunSettings(n_ctx=512, devices=(), n_gpu_layers=0)), 5, "guide"))
    whole["settings"] |= changes.pop("settings", {})
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[]", "format 1"),
        (content(format=2), "format 1"),
        (content(quant=3), "quant"),
        (content(size=True), "size"),
        (content(settings={"n_gpu_layer": 3}), "'n_gpu_layer'"),
        (content(settings={"n_ctx": 0}), "0 for n_ctx"),
        (content(settings={"n_ctx": "8192"}), "'8192' for n_ctx"),
        (content(settings={"n_threads": 100000}), "100000 for n_threads"),
        (content(settings={"type_k": "q3"}), "'q3' for type_k"),
        (content(settings={"repack": 1}), "1 for repack"),
        (content(settings={"repack": None}), "None for repack"),
        (content(settings={"devices": [1]}), "for devices"),
        (content(settings={"devices": None}), "None for devices"),
        (content(settings={"tensor_split": [1, 2], "devices": ["CUDA0"]}), "in 2, for 1 devices"),
        (content(settings={"tensor_split": [0, 0]}), "for tensor_split"),
        (content(settings={"load_mode": "mapped"}), "'mapped' for load_mode"),
        (content(settings={"affinity": "core"}), "'core' for affinity"),
        (content(settings={"affinity": ["cores"]}), "('cores',) for affinity"),
        (content(settings={"draft": 3, "n_draft_max": 7}), "3 for draft"),
        (content(settings={"draft": "", "n_draft_max": 7}), "'' for draft"),
        (content(settings={"draft": "/draft.gguf"}), "n_draft_max of 0"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_plan(text)
    assert words in caught.value.message


def test_a_plan_of_before_there_were_drafts_has_none() -> None:
    whole = json.loads(content())
    del whole["settings"]["draft"]
    assert parse_plan(json.dumps(whole)).settings.draft is None


def test_a_saved_plan_is_run_exactly(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    asked = llmrun("plan", "guide:Q4_K_M", "--ctx", "700", "--kv-type", "q8_0", "--save", str(path), "--json")
    settings = json.loads(asked.stdout)["settings"]
    assert parse_plan(path.read_text()).settings == replace(
        RunSettings(**settings), devices=tuple(settings["devices"]), loras=()
    )
    done = llmrun("run", "guide:Q4_K_M", "hello", "--plan", str(path), "-v")
    assert done.returncode == 0
    assert "n_ctx 700: " in done.stderr
    assert "type_k q8_0: " in done.stderr


def test_a_plan_for_another_file_is_refused(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    llmrun("plan", "guide:Q4_K_M", "--save", str(path), "--quiet")
    done = llmrun("run", "guide:F16", "hello", "--plan", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "the plan is for Q4_K_M of " in done.stderr


def test_a_plan_for_a_device_that_is_gone_is_refused(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    llmrun("plan", "guide:Q8_0", "--save", str(path), "--quiet")
    whole = json.loads(path.read_text())
    whole["settings"] |= {"devices": ["CUDA0"], "n_gpu_layers": 3}
    path.write_text(json.dumps(whole))
    done = llmrun("run", "guide", "hello", "--plan", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "the plan is for a device CUDA0, which is not here" in done.stderr


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_plan_that_cannot_be_read_is_said_to_be_that(llmrun: Run, name: str) -> None:
    done = llmrun("run", "guide", "hello", "--plan", name)
    assert done.returncode in (2, 5)
    assert "`llmrun plan MODEL --save FILE` writes one" in done.stderr


def test_a_plan_is_said_in_llama_servers_words(llmrun: Run) -> None:
    words = shlex.split(llmrun("plan", "guide", "--ctx", "512", "--emit", "llama-server").stdout)
    assert words[0] == "llama-server"
    assert words[words.index("-c") + 1] == "512"
    assert llmrun("plan", "guide", "--emit", "ollama").returncode == 2
