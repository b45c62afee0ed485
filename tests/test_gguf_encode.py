"""gguf.encode: the bytes a header came from, and a model's header without its tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GGUFError
from llmrun.gguf.encode import build_header, encode_header, without_tokenizer
from llmrun.gguf.header import Entry, GGUFHeader, Scalar, SkippedArray, TensorInfo, ValueType
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from llmrun.gguf.types import GGML_TYPES, ggml_type_named
from scripts.fuzzing.headers import SAMPLES, every_type_header
from scripts.synthetic import QWEN3_0_6B, RECURRENT, SLIDING, TINY, Shape, write_model

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.gguf"))
V = ValueType
F32 = GGML_TYPES[0]

_TEXT = st.text(st.characters(exclude_categories=[]), max_size=9).map(
    lambda text: text.encode("utf-8", "replace").decode()
) | st.binary(max_size=9).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
_BITS = {V.UINT8: 8, V.UINT16: 16, V.UINT32: 32, V.UINT64: 64, V.INT8: 8, V.INT16: 16, V.INT32: 32, V.INT64: 64}


def values(kind: ValueType) -> st.SearchStrategy[Scalar]:
    if kind in _BITS:
        low, high = (0, 1) if kind.name.startswith("U") else (-1, 1)
        bits = _BITS[kind] - (1 if low else 0)
        return st.integers(low * 2**bits, high * 2**bits - 1)
    if kind is V.BOOL:
        return st.booleans()
    return _TEXT if kind is V.STRING else st.floats(allow_nan=False, width=32 if kind is V.FLOAT32 else 64)


def arrays(kind: ValueType) -> st.SearchStrategy[Entry]:
    return st.lists(values(kind), max_size=5).map(lambda some: Entry(V.ARRAY, tuple(some), kind))


SCALARS = sorted(SAMPLES)
ENTRIES = st.sampled_from(SCALARS).flatmap(lambda kind: values(kind).map(lambda value: Entry(kind, value))) | (
    st.sampled_from(SCALARS).flatmap(arrays)
)
KEYS = _TEXT.filter(lambda text: text not in ("", "general.alignment") and "\0" not in text)
TENSORS = st.lists(
    st.builds(
        lambda name, kind, rows: TensorInfo(name, (kind.block_size, *rows), kind, 0),
        st.text("abc.01", min_size=1, max_size=63),
        st.sampled_from(sorted(GGML_TYPES.values(), key=lambda kind: kind.id)),
        st.lists(st.integers(0, 9), max_size=3),
    ),
    unique_by=lambda tensor: tensor.name,
    max_size=6,
)


@given(st.dictionaries(KEYS, ENTRIES, max_size=5), TENSORS, st.sampled_from([None, 1, 8, 4096]))
def test_a_header_that_is_encoded_and_parsed_is_the_same(
    metadata: dict[str, Entry], tensors: list[TensorInfo], alignment: int | None
) -> None:
    if alignment is not None:
        metadata["general.alignment"] = Entry(V.UINT32, alignment)
    header = build_header(3, metadata, tensors)
    assert parse_header(encode_header(header)) == header
    assert len(encode_header(header)) == header.data_offset


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_the_embedded_models_headers_are_encoded_to_the_bytes_they_came_from(path: Path) -> None:
    header = read_header(path)
    assert encode_header(header) == path.read_bytes()[: header.data_offset]
    assert header.file_size == path.stat().st_size


def test_what_was_not_kept_cannot_be_written() -> None:
    header = build_header(3, {}, ())
    entry = Entry(V.ARRAY, SkippedArray(V.STRING, 151936), V.STRING)
    with pytest.raises(
        ValueError, match="metadata key k cannot be written as ARRAY: its 151,936 elements were not kept"
    ):
        encode_header(replace(header, metadata={"k": entry}))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(V.UINT8, 256),
        Entry(V.UINT32, -1),
        Entry(V.UINT32, "1"),
        Entry(V.FLOAT32, 1e300),
        Entry(V.ARRAY, 1, V.UINT32),
        Entry(V.ARRAY, (1,)),
        Entry(V.ARRAY, (1,), V.ARRAY),
        Entry(V.UINT32, (1,)),
        Entry(V.STRING, 1),
        Entry(V.BOOL, 2),
    ],
)
def test_a_value_outside_its_type_cannot_be_written(entry: Entry) -> None:
    with pytest.raises(ValueError, match="metadata key k cannot be written as"):
        build_header(3, {"k": entry}, ())


def qwen() -> GGUFHeader:
    """A header as a real model's is read: its long arrays are skipped."""
    metadata = {
        "general.architecture": Entry(V.STRING, "qwen3"),
        "split.no": Entry(V.UINT16, 0),
        "split.count": Entry(V.UINT16, 2),
        "qwen3.block_count": Entry(V.UINT32, 28),
        "tokenizer.ggml.model": Entry(V.STRING, "gpt2"),
        "tokenizer.ggml.tokens": Entry(V.ARRAY, SkippedArray(V.STRING, 151936), V.STRING),
        "tokenizer.ggml.token_type_count": Entry(V.UINT32, 2),
        "tokenizer.chat_template": Entry(V.STRING, "{{ x }}"),
        "other.long": Entry(V.ARRAY, SkippedArray(V.FLOAT32, 9999), V.FLOAT32),
    }
    tensors = (TensorInfo("token_embd.weight", (1024, 151669), F32, 0), TensorInfo("b", (5,), F32, 77))
    return GGUFHeader(3, MappingProxyType(metadata), tensors, 32, 5_900_000)


def test_without_its_tokenizer_a_model_is_small_and_complete() -> None:
    """Kept is the number of kinds of tokens, a dimension of a tensor; offsets are those of one file."""
    small = without_tokenizer(qwen())
    assert dict(small.metadata) == {
        "general.architecture": Entry(V.STRING, "qwen3"),
        "qwen3.block_count": Entry(V.UINT32, 28),
        "tokenizer.ggml.token_type_count": Entry(V.UINT32, 2),
        "tokenizer.ggml.model": Entry(V.STRING, "no_vocab"),
        "qwen3.vocab_size": Entry(V.UINT32, 151936),
    }
    assert [tensor.offset for tensor in small.tensors] == [0, 1024 * 151669 * 4]
    assert small.data_offset == len(encode_header(small)) == 320
    assert parse_header(encode_header(small)) == small
    assert without_tokenizer(small) == small


def without(header: GGUFHeader, *keys: str) -> GGUFHeader:
    return replace(header, metadata={key: entry for key, entry in header.metadata.items() if key not in keys})


def test_the_number_of_tokens_is_that_of_the_tokens_then_the_models_then_of_the_embedding() -> None:
    bare = without(qwen(), "tokenizer.ggml.tokens")
    said = replace(bare, metadata=dict(bare.metadata) | {"qwen3.vocab_size": Entry(V.UINT64, 7)})
    empty = replace(bare, tensors=())
    assert without_tokenizer(said).metadata["qwen3.vocab_size"] == Entry(V.UINT32, 7)
    assert without_tokenizer(bare).metadata["qwen3.vocab_size"] == Entry(V.UINT32, 151669)
    with pytest.raises(GGUFError, match="the number of tokens is unknown"):
        without_tokenizer(empty)


def test_a_number_of_tokens_that_llama_cpp_cannot_count_is_refused() -> None:
    bare = without(qwen(), "tokenizer.ggml.tokens")
    with pytest.raises(GGUFError, match="the number of tokens is 4,294,967,296"):
        without_tokenizer(replace(bare, metadata=dict(bare.metadata) | {"qwen3.vocab_size": Entry(V.UINT64, 2**32)}))


def test_a_header_that_names_no_architecture_cannot_do_without_its_tokenizer() -> None:
    with pytest.raises(GGUFError, match=r"general\.architecture is missing"):
        without_tokenizer(without(qwen(), "general.architecture"))


_LOAD = """
import json, sys
from llama_cpp import llama_cpp
parameters = llama_cpp.llama_model_default_params()
parameters.no_alloc, parameters.load_mode, parameters.n_gpu_layers = True, 0, 0
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), parameters)
if not model:
    sys.exit("refused")
vocabulary = llama_cpp.llama_model_get_vocab(model)
print(json.dumps([
    llama_cpp.llama_vocab_n_tokens(vocabulary),
    llama_cpp.llama_model_n_params(model),
    llama_cpp.llama_model_size(model),
]))
"""


def as_llama_loads(header: GGUFHeader, folder: Path) -> tuple[int, int, int]:
    """Tokens, weights and bytes that llama.cpp finds in a file of this header and a hole for the data."""
    path = folder / "ghost.gguf"
    with path.open("wb") as file:
        file.write(encode_header(header))
        file.truncate(header.file_size)
    done = subprocess.run([sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    n_tokens, n_params, size = json.loads(done.stdout)
    return n_tokens, n_params, size


@pytest.mark.parametrize("shape", [TINY, SLIDING, RECURRENT], ids=lambda shape: shape.architecture)
def test_llama_cpp_loads_a_model_without_its_tokenizer(tmp_path: Path, shape: Shape) -> None:
    header = read_header(write_model(tmp_path / "m.gguf", shape))
    small = without_tokenizer(header)
    assert small.data_offset < header.data_offset / 2
    assert as_llama_loads(small, tmp_path) == (shape.n_vocab, header.n_elements, header.tensor_bytes)


def test_llama_cpp_loads_a_large_vocabulary_s_model_from_a_few_kib(tmp_path: Path) -> None:
    shape = replace(TINY, n_vocab=QWEN3_0_6B.n_vocab)
    small = without_tokenizer(read_header(write_model(tmp_path / "m.gguf", shape, mix="Q8_0")))
    assert small.data_offset < 4096
    assert as_llama_loads(small, tmp_path)[0] == 151936


def bert() -> GGUFHeader:
    """A BERT of one layer, whose tensors' shapes depend on a key of the tokenizer's."""
    numbers = {"block_count": 1, "embedding_length": 64, "feed_forward_length": 128, "context_length": 32}
    metadata = {
        "general.architecture": Entry(V.STRING, "bert"),
        **{f"bert.{key}": Entry(V.UINT32, number) for key, number in numbers.items()},
        "bert.attention.head_count": Entry(V.UINT32, 2),
        "bert.attention.layer_norm_epsilon": Entry(V.FLOAT32, 1e-5),
        "tokenizer.ggml.model": Entry(V.STRING, "bert"),
        "tokenizer.ggml.token_type_count": Entry(V.UINT32, 2),
        "tokenizer.ggml.tokens": Entry(V.ARRAY, SkippedArray(V.STRING, 100), V.STRING),
    }
    shapes = {"token_embd.weight": (64, 100), "position_embd.weight": (64, 32), "token_types.weight": (64, 2)}
    shapes |= {f"blk.0.attn_{part}.weight": (64, 64) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_up.weight": (64, 128), "blk.0.ffn_down.weight": (128, 64)}
    norms = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")
    lines = {f"{norm}.{part}": (64,) for norm in norms for part in ("weight", "bias")}
    tensors = [TensorInfo(name, dims, ggml_type_named("f32"), 0) for name, dims in (shapes | lines).items()]
    header = build_header(3, {key: entry for key, entry in metadata.items() if "tokens" not in key}, tensors)
    return replace(header, metadata=metadata)


def test_llama_cpp_loads_a_bert_without_its_tokenizer(tmp_path: Path) -> None:
    assert as_llama_loads(without_tokenizer(bert()), tmp_path) == (100, bert().n_elements, bert().tensor_bytes)


def test_every_type_of_value_survives() -> None:
    header = every_type_header()
    assert parse_header(encode_header(header)) == header
    assert {entry.type for entry in header.metadata.values()} == set(V)
    assert {entry.element_type for entry in header.metadata.values()} - {None} == set(V) - {V.ARRAY}
    assert {tensor.type.id for tensor in header.tensors} == set(GGML_TYPES)
