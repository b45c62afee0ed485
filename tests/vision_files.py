"""Projectors with random weights for models of any size, of three kinds, and images to show them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from scripts.architectures.shapes import small
from scripts.architectures.write import write

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Eye:
    """Sizes of a projector; kind is clip.projector_type: "mlp" (LLaVA), "gemma3" or "qwen2vl_merger".

    n_text: the embedding length of the model that it is for.
    """

    kind: str = "mlp"
    n_text: int = 256
    n_embd: int = 64
    n_ff: int = 128
    n_layer: int = 2
    n_head: int = 4
    image_size: int = 56
    patch_size: int = 14

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def _shapes(eye: Eye) -> Shapes:
    """Shapes in numpy's order."""
    n, patch = eye.n_embd, eye.patch_size
    yield "v.patch_embd.weight", (n, 3, patch, patch)
    if eye.kind == "qwen2vl_merger":
        yield "v.patch_embd.weight.1", (n, 3, patch, patch)
    else:
        yield "v.position_embd.weight", (eye.n_patches + (eye.kind == "mlp"), n)
    if eye.kind == "mlp":
        yield "v.class_embd", (n,)
        yield from _norm("v.pre_ln", n)
    yield from _norm("v.post_ln", n)
    for index in range(eye.n_layer):
        block = f"v.blk.{index}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield from _linear(f"{block}.{name}", n, n)
        yield from _norm(f"{block}.ln1", n)
        yield from _norm(f"{block}.ln2", n)
        yield from _linear(f"{block}.ffn_up", n, eye.n_ff)
        yield from _linear(f"{block}.ffn_down", eye.n_ff, n)
    if eye.kind == "gemma3":
        yield "mm.input_projection.weight", (n, eye.n_text)
        yield "mm.soft_emb_norm.weight", (n,)
        return
    width = n * 4 if eye.kind == "qwen2vl_merger" else n
    yield from _linear("mm.0", width, width)
    yield from _linear("mm.2", width, eye.n_text)


def _linear(name: str, n_in: int, n_out: int) -> Shapes:
    yield f"{name}.weight", (n_out, n_in)
    yield f"{name}.bias", (n_out,)


def _norm(name: str, n: int) -> Shapes:
    yield f"{name}.weight", (n,)
    yield f"{name}.bias", (n,)


def write_projector(path: Path, eye: Eye = Eye(), *, leave_out: str = "", **keys: Any) -> Path:
    """Write a projector; keys: metadata in the place of what there is, with _ for each dot of its name."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_bool("clip.has_vision_encoder", keys.get("has_vision_encoder", True))
    writer.add_string("clip.projector_type", keys.get("projector_type", eye.kind))
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "embedding_length": eye.n_embd,
        "feed_forward_length": eye.n_ff,
        "block_count": eye.n_layer,
        "attention.head_count": eye.n_head,
        "projection_dim": eye.n_text,
        "image_size": eye.image_size,
        "patch_size": eye.patch_size,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", keys.get(key, number))
    if eye.kind == "gemma3":
        writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    rng = np.random.default_rng(1)
    for name, shape in _shapes(eye):
        if name != leave_out:
            half = len(shape) > 1 and "position" not in name
            writer.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_qwen2vl(path: Path) -> Path:
    """Write a model whose positions have four numbers, as those of images in two dimensions need."""
    model = small("qwen2.5-0.5b")
    own = {**model.hyperparameters, "rope.dimension_sections": (8, 12, 12, 0)}
    return write(path, replace(model, architecture="qwen2vl", hyperparameters=own))


def png(width: int, height: int, seed: int = 0) -> bytes:
    """Return a PNG of random colours."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 0  # no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
