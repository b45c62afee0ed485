"""Headers of published models, as large as they really are: with all tokens and merges, and nothing behind them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from gguf import LlamaFileType, TokenType

from llmrun.gguf.encode import build_header, encode_header, encode_pair, encode_tensor
from llmrun.gguf.header import Entry, GGUFHeader, TensorInfo, ValueType, align
from llmrun.gguf.parse import MAGIC
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS
from scripts.synthetic import CHATML, SPECIALS, byte_texts
from tests.hub_server.content import Content, sparse

_MERGES = {128256: 280147}  # Llama 3 has more of them than tokens; others about as many
_PART = 48_000_000_000  # bytes: the Hub takes no file of more than 50 GB
_TEXT, _ARRAY = ValueType.STRING, ValueType.ARRAY


def header_files(name: str, shape: str, quant: str, like: str | None = None) -> dict[str, Content]:
    """Return the files of a quantization: one, or its parts in a folder of their own where it is too large for one.

    Of the weights there are zeros, and the checksum is not that of the zeros. like: of whose types it is, if not its
    own.
    """
    header = _header(shape, like or quant)
    count = -(-header.tensor_bytes // _PART)
    if count == 1:
        return {f"{name}-{quant}.gguf": _whole(shape, like or quant, header.tensors)}
    each = -(-len(header.tensors) // count)
    files = {}
    for no in range(count):
        tensors, split = header.tensors[no * each : (no + 1) * each], split_metadata(no, count, len(header.tensors))
        path = f"{quant}/{name}-{quant}-{no + 1:05d}-of-{count:05d}.gguf"
        files[path] = _whole(shape, like or quant, tensors, split) if no == 0 else _part(tensors, split)
    return files


def split_metadata(no: int, count: int, n_tensors: int) -> dict[str, Entry]:
    """Return what a part says of itself."""
    return {
        "split.no": Entry(ValueType.UINT16, no),
        "split.count": Entry(ValueType.UINT16, count),
        "split.tensors.count": Entry(ValueType.INT32, n_tensors),
    }


@cache
def _header(shape: str, quant: str) -> GGUFHeader:
    return quantized(MODELS[shape], quant)


def _whole(shape: str, quant: str, tensors: Sequence[TensorInfo], more: Mapping[str, Entry] = {}) -> Content:
    """A file with all metadata; its three pieces are put together when it is sent, the tokens are there once."""
    metadata = {**_header(shape, quant).metadata, "general.name": Entry(_TEXT, shape), **more}
    own = {key: entry for key, entry in metadata.items() if key != "tokenizer.ggml.model"}
    own["general.file_type"] = Entry(ValueType.UINT32, int(LlamaFileType[f"MOSTLY_{quant}"]))
    n_pairs, tokenizer = _tokenizer(MODELS[shape].n_vocab)
    start = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(own) + n_pairs)
    start += b"".join(encode_pair(key, entry) for key, entry in own.items())
    placed = build_header(3, {}, tensors)
    listed = b"".join(map(encode_tensor, placed.tensors))
    length = len(start) + len(tokenizer) + len(listed)
    listed += bytes(align(length, placed.alignment) - length)
    return _sparse((start, tokenizer, listed), placed)


def _part(tensors: Sequence[TensorInfo], split: Mapping[str, Entry]) -> Content:
    header = build_header(3, split, tensors)
    return _sparse((encode_header(header),), header)


def _sparse(head: tuple[bytes, ...], header: GGUFHeader) -> Content:
    return sparse(head, sum(map(len, head)) + header.data_size, stand_in=True)


@cache
def _tokenizer(n_vocab: int) -> tuple[int, bytes]:
    """How many lines of metadata there are to a tokenizer, and their bytes."""
    texts = [*SPECIALS, *byte_texts(), "ĠĠ"]
    kinds = [TokenType.CONTROL] * len(SPECIALS) + [TokenType.NORMAL] * (n_vocab - len(SPECIALS))
    fillers = range(len(texts), n_vocab)
    merges = range(len(texts), _MERGES.get(n_vocab, n_vocab))
    pairs = (
        encode_pair("tokenizer.ggml.model", Entry(_TEXT, "gpt2")),
        encode_pair("tokenizer.ggml.pre", Entry(_TEXT, "qwen2")),
        _texts("tokenizer.ggml.tokens", (*texts, *(f"~{number:08d}" for number in fillers))),
        encode_pair("tokenizer.ggml.token_type", Entry(_ARRAY, tuple(map(int, kinds)), ValueType.INT32)),
        _texts("tokenizer.ggml.merges", ("Ġ Ġ", *(f"~ {number:08d}" for number in merges))),
        encode_pair("tokenizer.ggml.bos_token_id", Entry(ValueType.UINT32, 0)),
        encode_pair("tokenizer.ggml.eos_token_id", Entry(ValueType.UINT32, 2)),
        encode_pair("tokenizer.chat_template", Entry(_TEXT, CHATML)),
    )
    return len(pairs), b"".join(pairs)


def _texts(key: str, texts: Iterable[str]) -> bytes:
    """A line of metadata with very many texts, in a fifth of the time that it takes to encode each as a value."""
    listed = [text.encode() for text in texts]
    empty = encode_pair(key, Entry(_ARRAY, (), _TEXT))
    count = struct.pack("<Q", len(listed))
    return empty[: -len(count)] + count + b"".join(struct.pack("<Q", len(text)) + text for text in listed)
