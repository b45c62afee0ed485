"""gguf.source, gguf.splits: headers of files, of files in parts, and of files with something missing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GGUFError, LLMRunError, NotFoundError
from llmrun.gguf.encode import build_header, encode_header, without_tokenizer
from llmrun.gguf.header import Entry, GGUFHeader, TensorInfo, ValueType
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import FIRST_READ, read_header, read_header_from, read_model_header, split_paths
from llmrun.gguf.splits import SplitInfo, merge_splits, split_info, split_names
from llmrun.gguf.types import GGML_TYPES
from scripts.synthetic import TINY, write_model

V = ValueType
F32 = GGML_TYPES[0]


def write_parts(folder: Path, split_max_tensors: int = 2, small_first_shard: bool = False) -> list[Path]:
    """A "model" of seven tensors, as the gguf package writes it in parts; with a small first part it has no tensors."""
    path = folder / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors, small_first_shard=small_first_shard)
    writer.add_block_count(7)
    writer.add_token_list([f"t{n}" for n in range(5000)])
    for n in range(7):
        writer.add_tensor(f"blk.{n}.weight", np.full((n + 1, 3), n, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("m*.gguf"))


def refused(what: type[LLMRunError], path: Path, *words: str) -> None:
    with pytest.raises(what) as caught:
        read_model_header(path)
    assert [word for word in words if word not in caught.value.message] == [], caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("small_first", [False, True])
@pytest.mark.parametrize("given_part", [0, -1])
def test_a_model_in_parts_reads_as_one_from_any_part(tmp_path: Path, small_first: bool, given_part: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    (whole,) = write_parts(tmp_path / "whole", split_max_tensors=0)
    parts = write_parts(tmp_path / "parts", 2, small_first)
    merged, one = read_model_header(parts[given_part]), read_header(whole)
    assert len(parts) == 4 + small_first
    assert (merged.tensors, dict(merged.metadata)) == (one.tensors, dict(one.metadata))
    assert merged.data_offset - one.data_offset in (0, 32)
    assert (merged.n_elements, merged.tensor_bytes, merged.data_size) == (
        one.n_elements,
        one.tensor_bytes,
        one.data_size,
    )


def test_the_names_of_all_parts_are_those_the_gguf_package_gives(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    assert [split_names(part.name) for part in parts] == [tuple(part.name for part in parts)] * 4
    assert [split_paths(part) for part in parts] == [tuple(parts)] * 4


def test_each_part_says_which_it_is(tmp_path: Path) -> None:
    found = [split_info(read_header(part)) for part in write_parts(tmp_path)]
    assert found == [SplitInfo(no, 4, 7) for no in range(4)]


def test_a_whole_model_has_no_parts(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    assert split_info(read_header(path)) is None
    assert split_paths(path) == (path,)
    assert read_model_header(path) == read_header(path)


def test_a_name_alone_makes_no_part(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m-00001-of-00002.gguf")
    assert read_model_header(path) == read_header(path)


@pytest.mark.parametrize(
    "name",
    ["m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf", "-00001-of-00002.gguf"],
)  # fmt: skip
def test_other_names_are_no_parts(name: str) -> None:
    assert split_names(name) is None


@given(st.text(min_size=1), st.integers(1, 50), st.data())
def test_from_each_part_s_name_all_names_follow(prefix: str, count: int, data: st.DataObject) -> None:
    names = split_names(f"{prefix}-00001-of-{count:05d}.gguf")
    assert names is not None
    assert len(set(names)) == count
    assert split_names(data.draw(st.sampled_from(names))) == names


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    parts[2].unlink()
    refused(NotFoundError, parts[0], "part 3 of 4 is missing", parts[2].name)


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    parts[1].write_bytes(parts[1].read_bytes()[:-40])
    refused(GGUFError, parts[0], parts[1].name, "is incomplete")


def test_a_part_whose_name_does_not_say_so_is_refused(tmp_path: Path) -> None:
    first = write_parts(tmp_path)[0].rename(tmp_path / "renamed.gguf")
    refused(GGUFError, first, "renamed.gguf is part 1 of 4, which its name does not say")


def test_exchanged_parts_are_told(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    parts[2].rename(tmp_path / "x")
    parts[1].rename(parts[2])
    (tmp_path / "x").rename(parts[1])
    refused(GGUFError, parts[0], "part 2 of 4 says to be part 3 of 4")


def part(no: int, count: int, names: str, n_tensors: int = 3, architecture: str | None = "llama") -> GGUFHeader:
    metadata = {
        "split.no": Entry(V.UINT16, no),
        "split.count": Entry(V.UINT16, count),
        "split.tensors.count": Entry(V.INT32, n_tensors),
    }
    if architecture:
        metadata["general.architecture"] = Entry(V.STRING, architecture)
    return build_header(3, metadata, [TensorInfo(name, (4,), F32, 0) for name in names])


def test_parts_are_merged_in_their_order_and_laid_out_anew() -> None:
    merged = merge_splits([part(0, 2, "ab"), part(1, 2, "c", architecture=None)])
    assert dict(merged.metadata) == {"general.architecture": Entry(V.STRING, "llama")}
    assert [(tensor.name, tensor.offset) for tensor in merged.tensors] == [("a", 0), ("b", 32), ("c", 64)]
    assert without_tokenizer(replace(merged, metadata=dict(merged.metadata) | {"llama.vocab_size": Entry(V.UINT8, 9)}))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([part(1, 2, "ab"), part(0, 2, "c")], "part 1 of 2 says to be part 2 of 2"),
        ([part(0, 2, "ab"), part(1, 3, "c")], "part 2 of 2 says to be part 2 of 3"),
        ([part(0, 2, "ab")], "part 1 of 1 says to be part 1 of 2"),
        ([part(0, 2, "ab"), build_header(3, {}, ())], "part 2 of 2 is no part of a model"),
        ([part(0, 2, "ab"), part(1, 2, "c", 3, "gemma3")], "part 2 of 2 is of architecture 'gemma3', the"),
        ([part(0, 2, "ab"), part(1, 2, "b")], "part 2 of 2 has tensor 'b', which an earlier part has too"),
        ([part(0, 2, "ab"), part(1, 2, "cd")], "part 1 of 2 announces 3 tensors in all parts, there are 4"),
        ([part(2, 2, "ab"), part(1, 2, "c")], "this says to be part 3 of 2"),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_refused(headers: list[GGUFHeader], message: str) -> None:
    with pytest.raises(GGUFError) as caught:
        merge_splits(headers)
    assert message in caught.value.message


@pytest.mark.parametrize("cut", [1, 24, 500, 20_000])
def test_a_file_that_ends_inside_its_header_says_so_with_numbers(tmp_path: Path, cut: int) -> None:
    data = write_model(tmp_path / "m.gguf", replace(TINY, n_vocab=6000)).read_bytes()[:cut]
    path = tmp_path / "cut.gguf"
    path.write_bytes(data)
    refused(GGUFError, path, "cut.gguf", *([] if cut < 24 else [f"ends after {cut:,} bytes, inside its header"]))


def test_a_file_without_all_its_weights_says_what_is_missing(tmp_path: Path) -> None:
    """The last tensor's padding may be missing, its last byte may not."""
    header = build_header(3, {}, [TensorInfo("a", (5,), F32, 0)])
    path = tmp_path / "m.gguf"
    path.write_bytes(encode_header(header) + bytes(20))
    assert read_header(path) == header
    path.write_bytes(encode_header(header) + bytes(19))
    needed = header.data_offset + 20
    refused(GGUFError, path, "m.gguf", f"the file is incomplete: it needs {needed:,} bytes and has {needed - 1:,}")


def test_what_the_parser_refuses_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\0\0\0\3" + bytes(100))
    refused(GGUFError, path, f"{path}: a big-endian GGUF file")


def test_a_missing_file_and_a_directory_are_not_found(tmp_path: Path) -> None:
    refused(NotFoundError, tmp_path / "m.gguf", "there is no file")
    refused(NotFoundError, tmp_path, "there is no GGUF file in")
    (tmp_path / "m.gguf").touch()
    refused(NotFoundError, tmp_path, "is a directory")


def big_vocabulary(n_tokens: int) -> bytes:
    """A header of n_tokens texts of 20 bytes each, 28 bytes apiece."""
    texts = (struct.pack("<Q", 20) + b"x" * 20) * n_tokens
    key = b"tokenizer.ggml.tokens"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 8, n_tokens) + texts
    return b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, 1) + pair


def recorded(data: bytes, calls: list[tuple[int, int]]) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        calls.append((offset, length))
        return data[offset : offset + length]

    return read


def test_of_a_large_file_little_more_is_read_than_its_header_and_nothing_twice() -> None:
    """Behind the header comes a hole of 8 GB, which nobody asks for."""
    header = big_vocabulary(200_000)
    calls: list[tuple[int, int]] = []
    size = len(header) + (8 << 30)
    assert read_header_from(recorded(header + bytes(len(header)), calls), size) == parse_header(header)
    assert [offset for offset, _ in calls] == [sum(length for _, length in calls[:n]) for n in range(len(calls))]
    assert sum(length for _, length in calls) < 2 * len(header)
    assert calls[0] == (0, FIRST_READ)
    assert len(calls) <= 4


def test_a_small_file_is_read_at_once() -> None:
    header = big_vocabulary(10)
    calls: list[tuple[int, int]] = []
    assert read_header_from(recorded(header, calls), len(header)) == parse_header(header)
    assert calls == [(0, len(header))]


def test_a_source_that_gives_less_than_it_has_is_an_error_and_no_endless_loop() -> None:
    header = big_vocabulary(100_000)
    with pytest.raises(GGUFError, match="ends after 5,000 bytes, inside its header"):
        read_header_from(recorded(header[:5000], []), len(header))
