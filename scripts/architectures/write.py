"""Models as GGUF version 3: a header of a file that is not there (a ghost), or a whole file with harmless weights."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as V

from scripts.architectures.mix import tensor_types
from scripts.architectures.model import Hyperparameters, Model, Tensor, Value
from scripts.synthetic import CHATML, SPECIALS, byte_texts

ALIGNMENT = 32  # bytes; GGUF's default


def ghost(model: Model, mix: str = "Q4_K_M", *, tokenizer: bool = False) -> tuple[bytes, int]:
    """Return the header of a file with this model, and the size the whole file would have, bytes.

    Without a tokenizer llama.cpp is told the vocabulary's size only; with one, all n_vocab tokens are there.
    """
    types = tensor_types(model, mix)
    header = _header(model, types, tokenizer)
    return header, len(header) + sum(_padded(_n_bytes(types[tensor.name], tensor)) for tensor in model.tensors)


def write(path: Path, model: Model, mix: str = "F16", seed: int = 0) -> Path:
    """Write a whole file with a tokenizer; its weights are random with harmless scales, so that logits are finite."""
    types = tensor_types(model, mix)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(_header(model, types, tokenizer=True))
        for tensor in model.tensors:
            data = random_data(rng, tensor, types[tensor.name])
            file.write(data + bytes(_padded(len(data)) - len(data)))
    return path


def _header(model: Model, types: dict[str, Q], tokenizer: bool) -> bytes:
    general: Hyperparameters = {"general.architecture": model.architecture, "general.quantization_version": 2}
    own = {f"{model.architecture}.{key}": value for key, value in model.hyperparameters.items()}
    metadata = general | own | (_tokenizer(model.n_vocab) if tokenizer else {"tokenizer.ggml.model": "no_vocab"})
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(model.tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _entry(value)
    offset = 0
    for tensor in model.tensors:
        kind, n_dims = types[tensor.name], len(tensor.dims)
        out += _string(tensor.name) + struct.pack(f"<I{n_dims}QIQ", n_dims, *tensor.dims, kind, offset)
        offset += _padded(_n_bytes(kind, tensor))
    return bytes(out) + bytes(_padded(len(out)) - len(out))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _n_bytes(kind: Q, tensor: Tensor) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert tensor.dims[0] % block == 0, f"{tensor} is not whole blocks of {kind.name}"
    return prod(tensor.dims) // block * size


def _tokenizer(n_vocab: int) -> Hyperparameters:
    """A byte-level tokenizer; filler tokens make up the vocabulary, and each but the first has a merge."""
    texts = [*SPECIALS, *byte_texts(), "ĠĠ"]
    fillers = range(len(texts), n_vocab)
    texts += [f"~{index}" for index in fillers]
    kinds = [gguf.TokenType.CONTROL] * len(SPECIALS) + [gguf.TokenType.NORMAL] * (n_vocab - len(SPECIALS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tuple(texts),
        "tokenizer.ggml.token_type": tuple(map(int, kinds)),
        "tokenizer.ggml.merges": ("Ġ Ġ", *(f"~ {index}" for index in fillers)),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _entry(value: Value) -> bytes:
    """A value's type and bytes: whole numbers are u32, those of arrays i32, as the converters write them."""
    if isinstance(value, tuple):
        kind = V.INT32 if _type(value[0]) == V.UINT32 else _type(value[0])
        return struct.pack("<IIQ", V.ARRAY, kind, len(value)) + b"".join(_elements(kind, value))
    kind = _type(value)
    return struct.pack("<I", kind) + b"".join(_elements(kind, (value,)))


def _type(value: Value) -> V:
    """The bool comes first because a bool is an int."""
    for python, kind in ((bool, V.BOOL), (int, V.UINT32), (float, V.FLOAT32), (str, V.STRING)):
        if isinstance(value, python):
            return kind
    raise TypeError(f"{value!r} has no GGUF type")


_FORMATS = {V.BOOL: "<?", V.UINT32: "<I", V.INT32: "<i", V.FLOAT32: "<f"}


def _elements(kind: V, values: Sequence[Value]) -> Iterator[bytes]:
    for value in values:
        yield _string(value) if isinstance(value, str) else struct.pack(_FORMATS[kind], value)


# Where the scales of a block lie, and a value that keeps weights near 0.03: (offset in bytes, f16).
_SCALES: dict[Q, tuple[tuple[int, float], ...]] = {
    Q.Q8_0: ((0, 0.0004),),
    Q.Q5_0: ((0, 0.002),),
    Q.Q5_1: ((0, 0.001), (2, -0.015)),
    Q.Q4_K: ((0, 0.0002), (2, 0.0015)),
    Q.Q5_K: ((0, 0.0001), (2, 0.0015)),
    Q.Q6_K: ((208, 0.00002),),
}
_MXFP4_EXPONENT = 127 - 7  # of 2, in a block's first byte, above 127; a number is up to 6 times that power


def random_data(rng: np.random.Generator, tensor: Tensor, kind: Q) -> bytes:
    """Return a tensor's bytes: norms and biases are 1, what decays a state is negative, the rest is around 0."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = prod(tensor.dims)
    if kind == Q.F32:
        return bytes(_floats(rng, tensor, count).astype("<f4"))
    if kind == Q.F16:
        return bytes((rng.standard_normal(count, np.float32) * 0.03).astype("<f2"))
    data = rng.integers(0, 256, (count // block, size), np.uint8)
    if kind == Q.MXFP4:
        data[:, 0] = _MXFP4_EXPONENT
    for offset, value in _SCALES.get(kind, ()):
        data[:, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return bytes(data)


def _floats(rng: np.random.Generator, tensor: Tensor, count: int) -> Any:
    if tensor.name.endswith("ssm_a"):
        return -rng.random(count, np.float32)
    if len(tensor.dims) == 1 or "norm" in tensor.name:
        return np.ones(count, np.float32)
    return rng.standard_normal(count, np.float32) * 0.03
