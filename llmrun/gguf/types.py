"""Every storage type of ggml, as a table: block sizes are facts of a file format, and asking a package costs numpy.

Must not know how a type is computed with, or which devices can.
"""

from __future__ import annotations

from types import MappingProxyType

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGMLType

# id, name, elements and bytes of a block: ggml.h, enum ggml_type; ggml-common.h, the asserted sizes of the blocks
_ALL = (
    GGMLType(0, "F32", 1, 4),
    GGMLType(1, "F16", 1, 2),
    GGMLType(2, "Q4_0", 32, 18),
    GGMLType(3, "Q4_1", 32, 20),
    GGMLType(6, "Q5_0", 32, 22),
    GGMLType(7, "Q5_1", 32, 24),
    GGMLType(8, "Q8_0", 32, 34),
    GGMLType(9, "Q8_1", 32, 36),
    GGMLType(10, "Q2_K", 256, 84),
    GGMLType(11, "Q3_K", 256, 110),
    GGMLType(12, "Q4_K", 256, 144),
    GGMLType(13, "Q5_K", 256, 176),
    GGMLType(14, "Q6_K", 256, 210),
    GGMLType(15, "Q8_K", 256, 292),
    GGMLType(16, "IQ2_XXS", 256, 66),
    GGMLType(17, "IQ2_XS", 256, 74),
    GGMLType(18, "IQ3_XXS", 256, 98),
    GGMLType(19, "IQ1_S", 256, 50),
    GGMLType(20, "IQ4_NL", 32, 18),
    GGMLType(21, "IQ3_S", 256, 110),
    GGMLType(22, "IQ2_S", 256, 82),
    GGMLType(23, "IQ4_XS", 256, 136),
    GGMLType(24, "I8", 1, 1),
    GGMLType(25, "I16", 1, 2),
    GGMLType(26, "I32", 1, 4),
    GGMLType(27, "I64", 1, 8),
    GGMLType(28, "F64", 1, 8),
    GGMLType(29, "IQ1_M", 256, 56),
    GGMLType(30, "BF16", 1, 2),
    GGMLType(34, "TQ1_0", 256, 54),
    GGMLType(35, "TQ2_0", 256, 66),
    GGMLType(39, "MXFP4", 32, 17),
    GGMLType(40, "NVFP4", 64, 36),
    GGMLType(41, "Q1_0", 128, 18),
    GGMLType(42, "Q2_0", 64, 18),
)

GGML_TYPES = MappingProxyType({kind.id: kind for kind in _ALL})
_BY_NAME = {kind.name.lower(): kind for kind in _ALL}

# What once had a number and is no longer read (ggml.h says so beside each): its name, and what took its place.
REMOVED = MappingProxyType(
    {
        4: ("Q4_2", "Q4_0"),
        5: ("Q4_3", "Q4_1"),
        31: ("Q4_0_4_4", "Q4_0"),
        32: ("Q4_0_4_8", "Q4_0"),
        33: ("Q4_0_8_8", "Q4_0"),
        36: ("IQ4_NL_4_4", "IQ4_NL"),
        37: ("IQ4_NL_4_8", "IQ4_NL"),
        38: ("IQ4_NL_8_8", "IQ4_NL"),
    }
)


def ggml_type(number: int) -> GGMLType:
    """The type with ggml's number; GGUFError where llama.cpp has removed it, or never had it."""
    kind = GGML_TYPES.get(number)
    if kind is not None:
        return kind
    if number in REMOVED:
        name, instead = REMOVED[number]
        message = f"tensors of type {name} ({number}): support for it was removed from llama.cpp"
        raise GGUFError(message, f"look for the model's {instead} file: it is as small, and as fast")
    raise GGUFError(f"tensors of type {number}, which is unknown", "update llmrun, or fetch the file again")


def ggml_type_named(name: str) -> GGMLType:
    """The type with this name in any case, "q8_0" or "Q8_0"; KeyError where there is none."""
    return _BY_NAME[name.lower()]
