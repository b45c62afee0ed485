"""The dry run against real loads, and the arithmetic against the dry run: every architecture, in many settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.errors import UnknownArchitectureError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.memory.cache import place_context
from llmrun.memory.context import context_shape
from llmrun.memory.estimate import Estimator
from llmrun.memory.placement import place_layers
from llmrun.memory.shape import model_shape
from llmrun.memory.weights import place_weights
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost
from scripts.measuring.engine import compare_model

pytestmark = pytest.mark.differential
# Their graphs are not simulated: the engine is asked.
ASKED = {"gemma-3n-e2b", "gemma-4-e2b"}
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
@pytest.mark.parametrize("name", sorted(set(MODELS) - ASKED))
def test_the_arithmetic_agrees_with_the_engine(name: str, rpc_server: str) -> None:
    """Weights, KV cache and state to the byte in every pool; compute within its band, and that within its bounds."""
    with Engine() as engine:
        score = compare_model(name, engine, rpc_server, N_CASES)
    assert score.off == []
    assert score.n_cases == N_CASES
    assert (score.exact_weights, score.exact_cache, score.within_band) == (N_CASES, N_CASES, score.n_pools)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_what_the_arithmetic_does_not_know_it_says(name: str) -> None:
    header = parse_header(ghost(MODELS[name])[0])
    assert isinstance(header, GGUFHeader)
    with pytest.raises(UnknownArchitectureError, match="graph"):
        Estimator(header)


@pytest.mark.parametrize("name", sorted(ASKED))
@pytest.mark.parametrize(
    ("n_ctx", "n_gpu_layers", "flash_attn"), [(512, 0, True), (8192, 9, False), (131072, 99, True)]
)
def test_weights_and_caches_are_exact_without_the_graph(
    name: str, n_ctx: int, n_gpu_layers: int, flash_attn: bool, rpc_server: str
) -> None:
    header_bytes, size = ghost(MODELS[name])
    header = parse_header(header_bytes)
    assert isinstance(header, GGUFHeader)
    shape = model_shape(header)
    wish = RunSettings(n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, flash_attn=flash_attn, devices=(rpc_server,))
    with Engine() as engine:
        asked = engine.dry_run(header_bytes, size, wish)
    placement = place_layers(shape.n_layer, n_gpu_layers, (1.0,))
    weights = place_weights(shape, placement, 1, mmap=False)
    context = context_shape(wish, shape.n_ctx_train)
    kept = place_context(shape, context, placement, 1, type_k="f16", type_v="f16", flash_attn=flash_attn)
    assert (weights.host, *weights.devices) == (asked.host.weights, asked.devices[0].weights)
    assert [pool.kv_cache for pool in kept] == [asked.host.kv_cache, asked.devices[0].kv_cache]
