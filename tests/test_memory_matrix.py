"""The dry run against real loads, and the arithmetic against the dry run: every architecture, in many settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from scripts.architectures.shapes import MODELS
from scripts.measuring.engine import compare_model

pytestmark = pytest.mark.differential
N_CASES = 12  # of each model; `scripts/accuracy engine --cases N` takes more


def test_the_matrix_has_the_architectures_people_run() -> None:
    dense = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "command-r"}
    others = {"qwen3moe", "gpt-oss", "deepseek2", "mamba", "falcon-h1", "granitehybrid", "qwen3next"}
    assert dense | others <= {model.architecture for model in MODELS.values()}


@pytest.mark.slow
def test_a_dry_run_says_what_a_real_load_takes_to_the_byte(rpc_server: str, tmp_path: Path) -> None:
    """Contexts 512 to 131,072, KV types, attention, sequences, repacking; host, device, and splits, experts apart."""
    command = [sys.executable, "-P", "-m", "tests.real_loads", rpc_server, str(tmp_path), *MODELS]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row for row in rows if row["real"] != row["asked"]] == []
    assert {row["name"] for row in rows} == set(MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_arithmetic_agrees_with_the_engine(name: str, rpc_server: str) -> None:
    """Weights, KV cache and state to the byte in every pool; compute within its band, and that within its bounds."""
    with Engine() as engine:
        score = compare_model(name, engine, rpc_server, N_CASES)
    assert score.off == []
    assert score.n_cases == N_CASES
    assert (score.exact_weights, score.exact_cache, score.within_band) == (N_CASES, N_CASES, score.n_pools)
