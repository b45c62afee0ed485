"""gguf.header, gguf.types: what is asked of a header, and the table of ggml's types."""

from __future__ import annotations

import subprocess
import sys
from types import MappingProxyType

import gguf
import pytest

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGMLType, GGUFHeader, SkippedArray, TensorInfo, ValueType, align
from llmrun.gguf.types import GGML_TYPES, REMOVED, ggml_type, ggml_type_named

V = ValueType
F32, Q4_K = GGML_TYPES[0], GGML_TYPES[12]


def header(entries: dict[str, Entry], *tensors: TensorInfo) -> GGUFHeader:
    return GGUFHeader(3, MappingProxyType(entries), tensors, 32, 64)


def array(kind: ValueType, *values: int | float | bool | str) -> Entry:
    return Entry(V.ARRAY, values, kind)


ENTRIES = {
    "u8": Entry(V.UINT8, 200),
    "zero": Entry(V.UINT32, 0),
    "i64": Entry(V.INT64, 5),
    "minus": Entry(V.INT32, -1),
    "f32": Entry(V.FLOAT32, 0.5),
    "f64": Entry(V.FLOAT64, 0.0),
    "yes": Entry(V.BOOL, True),
    "no": Entry(V.BOOL, False),
    "text": Entry(V.STRING, "x"),
    "void": Entry(V.STRING, ""),
    "u32s": array(V.UINT32, 1, 0, 3),
    "i32s": array(V.INT32, 4, -1),
    "bools": array(V.BOOL, True, False),
    "texts": array(V.STRING, "a", "b"),
    "floats": array(V.FLOAT32, 1.0),
    "none": array(V.UINT32),
    "long": Entry(V.ARRAY, SkippedArray(V.INT32, 151936), V.INT32),
    "tokens": Entry(V.ARRAY, SkippedArray(V.STRING, 151936), V.STRING),
}
ACCEPTED: dict[str, dict[str, object]] = {
    "uint": {"u8": 200, "zero": 0, "i64": 5},
    "float_or_none": {"f32": 0.5, "f64": 0.0},
    "bool_or_none": {"yes": True, "no": False},
    "string": {"text": "x", "void": ""},
    "uints_or_none": {"u32s": (1, 0, 3), "bools": (1, 0), "none": ()},
    "array_length_or_none": {
        "u32s": 3,
        "i32s": 2,
        "bools": 2,
        "texts": 2,
        "floats": 1,
        "none": 0,
        "long": 151936,
        "tokens": 151936,
    },
}
ACCEPTED |= {"uint_or_none": ACCEPTED["uint"], "string_or_none": ACCEPTED["string"]}


@pytest.mark.parametrize("accessor", ACCEPTED)
def test_an_accessor_gives_values_of_its_type_zero_and_empty_too_and_refuses_all_others(accessor: str) -> None:
    ask = getattr(header(ENTRIES), accessor)
    given: dict[str, object] = {}
    for key in ENTRIES:
        try:
            given[key] = ask(key)
        except GGUFError as error:
            given[key] = error.message
    right = ACCEPTED[accessor]
    assert {key: value for key, value in given.items() if key in right} == right
    refused = [str(value) for key, value in given.items() if key not in right]
    assert [text for text in refused if not text.startswith("metadata key ")] == []


@pytest.mark.parametrize("accessor", [name for name in ACCEPTED if name.endswith("_or_none")])
def test_what_is_missing_is_none(accessor: str) -> None:
    assert getattr(header(ENTRIES), accessor)("nothing") is None


@pytest.mark.parametrize("accessor", ["uint", "string"])
def test_what_is_missing_and_needed_is_an_error_with_the_key(accessor: str) -> None:
    with pytest.raises(GGUFError, match=r"^metadata key llama\.block_count is missing$"):
        getattr(header({}), accessor)("llama.block_count")


@pytest.mark.parametrize(
    ("accessor", "key", "message"),
    [
        ("uint", "text", "metadata key text is of type STRING, expected a whole number"),
        ("uint", "yes", "metadata key yes is of type BOOL, expected a whole number"),
        ("uint", "minus", "metadata key minus is -1, which must not be negative"),
        ("uints_or_none", "zero", "metadata key zero is of type UINT32, expected an array of whole numbers"),
        ("uints_or_none", "texts", "metadata key texts is of type ARRAY of STRING, expected an array of whole numbers"),
        (
            "uints_or_none",
            "tokens",
            "metadata key tokens is of type ARRAY of STRING, expected an array of whole numbers",
        ),
        ("uints_or_none", "i32s", "metadata key i32s contains -1, which must not be negative"),
        ("uints_or_none", "long", "metadata key long has 151,936 elements, more than are kept"),
        ("float_or_none", "u8", "metadata key u8 is of type UINT8, expected a floating point number"),
        ("bool_or_none", "u8", "metadata key u8 is of type UINT8, expected true or false"),
        ("string_or_none", "u8", "metadata key u8 is of type UINT8, expected text"),
        ("array_length_or_none", "u8", "metadata key u8 is of type UINT8, expected an array"),
    ],
)
def test_a_mistyped_value_is_an_error_that_names_key_and_type(accessor: str, key: str, message: str) -> None:
    with pytest.raises(GGUFError) as caught:
        getattr(header(ENTRIES), accessor)(key)
    assert caught.value.message == message


def test_the_architecture_is_part_of_its_own_keys() -> None:
    model = header({"general.architecture": Entry(V.STRING, "qwen3")})
    assert (model.architecture, model.arch("block_count")) == ("qwen3", "qwen3.block_count")
    with pytest.raises(GGUFError, match=r"general\.architecture is missing"):
        header({}).arch("block_count")


def test_sizes_are_exact_and_padding_is_counted_apart() -> None:
    model = header(
        {},
        TensorInfo("a", (512, 3), Q4_K, 0),  # 6 blocks of 144 bytes
        TensorInfo("b", (), F32, 864),
        TensorInfo("c", (5, 0), F32, 896),
        TensorInfo("d", (5,), F32, 896),
    )
    assert [(tensor.n_elements, tensor.size) for tensor in model.tensors] == [(1536, 864), (1, 4), (0, 0), (5, 20)]
    assert (model.n_elements, model.tensor_bytes) == (1542, 888)
    assert (model.data_end, model.data_size, model.file_size) == (916, 928, 992)


def test_a_header_without_tensors_is_the_whole_file() -> None:
    assert (header({}).n_elements, header({}).tensor_bytes, header({}).data_size, header({}).file_size) == (0, 0, 0, 64)


@pytest.mark.parametrize(("size", "aligned"), [(0, 0), (1, 32), (32, 32), (33, 64)])
def test_align_is_the_next_multiple(size: int, aligned: int) -> None:
    assert align(size, 32) == aligned


def test_the_value_types_are_gguf_s() -> None:
    assert {kind.name: int(kind) for kind in ValueType} == {kind.name: int(kind) for kind in gguf.GGUFValueType}


def test_the_types_are_those_of_the_gguf_package_but_for_what_it_has_wrong_or_not_yet() -> None:
    """Release 0.19 has Q8_1 with two floats in place of two halves, and no Q2_0; llama.cpp's own table is below."""
    theirs = {int(kind): GGMLType(int(kind), kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = dict(GGML_TYPES)
    late = {ours[9], ours[42]}
    assert set(theirs.values()) - set(ours.values()) <= {GGMLType(9, "Q8_1", 32, 40)}
    assert set(ours.values()) - set(theirs.values()) <= late


_ASK_LLAMA = """
import ctypes
from llama_cpp import llama_cpp
library = llama_cpp._lib
def function(name, result):
    found = library[name]
    found.restype, found.argtypes = result, [ctypes.c_int]
    return found
name, block = function("ggml_type_name", ctypes.c_char_p), function("ggml_blck_size", ctypes.c_int64)
size = function("ggml_type_size", ctypes.c_size_t)
for number in range(43):
    print(number, (name(number) or b"?").decode().split()[0], block(number), size(number))
"""


def test_the_types_are_those_of_the_installed_llama_cpp() -> None:
    done = subprocess.run([sys.executable, "-c", _ASK_LLAMA], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    there = {
        GGMLType(int(number), name.upper(), int(block), int(size)) for number, name, block, size in rows if block != "0"
    }
    assert there == {
        GGMLType(kind.id, kind.name.upper(), kind.block_size, kind.type_size) for kind in GGML_TYPES.values()
    }
    assert {int(number) for number, _, block, _ in rows if block == "0"} == set(REMOVED)


def test_a_type_is_found_by_number_and_by_name() -> None:
    assert ggml_type(12) is ggml_type_named("q4_k") is ggml_type_named("Q4_K") is Q4_K
    assert all(ggml_type(kind.id) is ggml_type_named(kind.name) is kind for kind in GGML_TYPES.values())


@pytest.mark.parametrize("number", REMOVED)
def test_a_removed_type_is_refused_with_what_took_its_place(number: int) -> None:
    with pytest.raises(GGUFError, match="was removed from") as caught:
        ggml_type(number)
    assert REMOVED[number][1] in (caught.value.hint or "")


@pytest.mark.parametrize("number", [43, 255, 2**32 - 1])
def test_an_unknown_type_is_refused(number: int) -> None:
    with pytest.raises(GGUFError, match=f"of type {number}, which is unknown"):
        ggml_type(number)
