"""LoRA adapters for models of any shape, with random matrices: what they cost depends on their shape alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llmrun.gguf.header import GGUFHeader, TensorInfo

Choose = Callable[[TensorInfo], bool]


def is_matrix(tensor: TensorInfo) -> bool:
    """Whether an adapter may stand beside a tensor: what activations are multiplied by."""
    looked_up = tensor.name.startswith(("token_embd", "per_layer_token_embd"))
    return len(tensor.shape) >= 2 and tensor.name.endswith(".weight") and not looked_up


def write_adapter(
    path: Path,
    base: GGUFHeader,
    choose: Choose = is_matrix,
    *,
    rank: int = 4,
    kind: type[np.generic] = np.float32,
    strength: float = 0.05,
    changes: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
    keys: Mapping[str, str] | None = None,
) -> Path:
    """Write an adapter for the tensors of a model that are chosen.

    changes: tensors to write in the place of others, None to leave one out. keys: metadata in the place of other.
    """
    texts = {"general.type": "adapter", "adapter.type": "lora", **(keys or {})}
    writer = gguf.GGUFWriter(path, texts.pop("general.architecture", base.architecture))
    for key, value in texts.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", 2.0 * rank)
    rng = np.random.default_rng(0)
    matrices: dict[str, np.ndarray[Any, Any] | None] = {}
    for tensor in filter(choose, base.tensors):
        n_in, n_out, *more = tensor.shape
        a, b = (*reversed(more), rank, n_in), (*reversed(more), n_out, rank)
        if tensor.name == "token_embd.weight":
            a, b = (n_out, rank), (n_in, rank)
        matrices[f"{tensor.name}.lora_a"] = rng.normal(0, strength, a).astype(kind)
        matrices[f"{tensor.name}.lora_b"] = rng.normal(0, strength, b).astype(kind)
    for name, data in (matrices | dict(changes or {})).items():
        if data is not None:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
