"""The synthetic models of many architectures: they have the published sizes, and the real engine takes them."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from scripts.architectures.mix import MIXES, tensor_types
from scripts.architectures.model import Model
from scripts.architectures.shapes import MODELS, PUBLISHED, small
from scripts.architectures.write import ghost, write

# Structures that differ: shapes that only differ in size are the same in small.
DISTINCT = [name for index, name in enumerate(MODELS) if all(small(name) != small(n) for n in list(MODELS)[:index])]


def answers(command: str, *names: str) -> dict[str, dict[str, Any]]:
    """What the engine says about each name; if it dies, the test shows where."""
    environment = os.environ | {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.architectures", command, *names],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = {answer.pop("name"): answer for answer in map(json.loads, run.stdout.splitlines())}
    assert run.returncode == 0, f"after {list(found)[-1:]}: {run.stderr[-3000:]}"
    return found


def kinds(model: Model) -> set[str]:
    """What sorts of tensors a model has, whatever the layer."""
    return {re.sub(r"\d+", "N", tensor.name, count=1) for tensor in model.tensors}


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_has_its_published_number_of_parameters(name: str) -> None:
    assert MODELS[name].n_parameters == pytest.approx(PUBLISHED[name].n_parameters, rel=0.005)


@pytest.mark.parametrize("name", MODELS)
def test_a_small_model_has_every_kind_of_tensor_and_key_of_the_real_one(name: str) -> None:
    assert kinds(small(name)) == kinds(MODELS[name])
    # A DeepSeek model without query ranks is told from its 27 layers; in small, a rank of 0 says so.
    extra = {"attention.q_lora_rank"} if name == "deepseek-v2-lite" else set()
    assert set(small(name).hyperparameters) == set(MODELS[name].hyperparameters) | extra
    assert small(name).n_parameters < 40e6


def test_the_engine_accepts_every_published_shape() -> None:
    expected = {name: {"n_vocab": m.n_vocab, "n_parameters": m.n_parameters} for name, m in MODELS.items()}
    assert answers("accept", *MODELS) == expected


@pytest.mark.parametrize("mix", MIXES)
def test_the_engine_decodes_every_small_model(mix: str, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.gguf", small(name), mix) for name in DISTINCT]
    sizes = {file.stem: file.stat().st_size for file in files}
    assert sizes == {name: ghost(small(name), mix, tokenizer=True)[1] for name in DISTINCT}
    found = answers("decode", *map(str, files))
    assert found == {name: {"n_tokens": 8, "n_vocab": 512, "finite": True} for name in DISTINCT}


def test_the_types_are_those_of_llama_cpp_s_quantizer() -> None:
    found = answers("quantize", *MODELS)
    assert set(found) == set(MODELS)
    for name, answer in found.items():
        for label, theirs in answer.items():
            model = small(name) if label.startswith("small") else MODELS[name]
            ours = {tensor: kind.name for tensor, kind in tensor_types(model, label.split()[1]).items()}
            if model.architecture == "gpt-oss":  # published in MXFP4 and left so; made from F16 it would be otherwise
                ours, theirs = ({k: v for k, v in t.items() if "_exps.weight" not in k} for t in (ours, theirs))
            assert theirs == ours, f"{name}, {label}"


def test_an_independent_reader_finds_what_was_written(tmp_path: Path) -> None:
    for name in DISTINCT:
        model = small(name)
        header, size = ghost(model, "Q4_K_M", tokenizer=True)
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(header)
        os.truncate(path, size)
        reader = gguf.GGUFReader(path)
        assert [(t.name, tuple(map(int, t.shape))) for t in reader.tensors] == list(model.tensors)
        types = tensor_types(model, "Q4_K_M")
        assert {t.name: t.tensor_type for t in reader.tensors} == types
        own = {key: reader.fields[f"{model.architecture}.{key}"].contents() for key in model.hyperparameters}
        expected = {key: list(v) if isinstance(v, tuple) else v for key, v in model.hyperparameters.items()}
        assert own == {key: pytest.approx(v) if isinstance(v, float) else v for key, v in expected.items()}
        last = reader.tensors[-1]
        assert size - 32 < last.data_offset + last.n_bytes <= size


def test_a_ghost_can_have_a_vocabulary_of_full_size() -> None:
    model = MODELS["qwen3-0.6b"]
    header, size = ghost(model, "Q8_0", tokenizer=True)
    without, size_without = ghost(model, "Q8_0")
    assert size - len(header) == size_without - len(without)
    for key, length in (("tokens", model.n_vocab), ("token_type", model.n_vocab), ("merges", model.n_vocab - 259)):
        name = f"tokenizer.ggml.{key}".encode()
        kind, _element, count = struct.unpack_from("<IIQ", header, header.index(name) + len(name))
        assert (kind, count) == (gguf.GGUFValueType.ARRAY, length)
    assert len(without) < 25_000
    assert len(header) > 5_000_000


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    model = small("lfm2-1.2b")
    first, again, other = (write(tmp_path / str(i), model, seed=seed).read_bytes() for i, seed in enumerate((1, 1, 2)))
    assert first == again != other
