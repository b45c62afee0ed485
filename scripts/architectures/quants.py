"""Headers of one model in twenty quantizations, as a repository has them; of the files there is only that.

Types after llama.cpp's src/llama-quant.cpp (llama_tensor_get_type_impl), simplified: one type for most matrices, a
better one for those that lose most, in some layers or in all, and Q6_K for the output. tests/test_golden_plans.py
holds the sizes against those of real files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmrun.gguf.encode import build_header
from llmrun.gguf.header import GGMLType, GGUFHeader, TensorInfo
from llmrun.gguf.parse import parse_header
from llmrun.gguf.types import ggml_type_named
from scripts.architectures.mix import MIXES
from scripts.architectures.model import Model
from scripts.architectures.write import ghost


@dataclass(frozen=True, slots=True)
class Recipe:
    """The type of most matrices, and of attn_v and ffn_down; in every layer or in one of two."""

    most: str
    better: str = ""
    everywhere: bool = True


RECIPES: dict[str, Recipe] = {
    "Q6_K": Recipe("Q6_K"),
    "Q5_K_M": Recipe("Q5_K", "Q6_K", everywhere=False),
    "Q5_K_S": Recipe("Q5_K"),
    "Q5_0": Recipe("Q5_0"),
    "Q4_K_S": Recipe("Q4_K"),
    "Q4_0": Recipe("Q4_0"),
    "Q4_1": Recipe("Q4_1"),
    "IQ4_NL": Recipe("IQ4_NL"),
    "IQ4_XS": Recipe("IQ4_XS"),
    "Q3_K_L": Recipe("Q3_K", "Q5_K"),
    "Q3_K_M": Recipe("Q3_K", "Q4_K"),
    "Q3_K_S": Recipe("Q3_K"),
    "IQ3_M": Recipe("IQ3_S", "Q4_K", everywhere=False),
    "IQ3_XXS": Recipe("IQ3_XXS"),
    "Q2_K": Recipe("Q2_K", "Q3_K"),
    "IQ2_XS": Recipe("IQ2_XS", "Q2_K", everywhere=False),
    "IQ1_M": Recipe("IQ1_M", "Q2_K", everywhere=False),
}
QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", *list(RECIPES)[4:])
# what takes the place of a type whose blocks do not divide a row (llama-quant.cpp, tensor_type_fallback)
_FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}


def quantized(model: Model, quant: str) -> GGUFHeader:
    """Return the header of a file of this model in one of QUANTS, without a tokenizer."""
    header = parse_header(ghost(model, quant if quant in MIXES else "F16")[0])
    assert isinstance(header, GGUFHeader)
    if quant in MIXES:
        return header
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    output = "token_embd.weight" if tied else "output.weight"
    tensors = [replace(t, type=_type_in(t, RECIPES[quant], output)) for t in header.tensors]
    return build_header(header.version, header.metadata, tensors)


def bits_per_weight(header: GGUFHeader) -> float:
    """Return how many bits of the file a weight has."""
    return sum(tensor.size for tensor in header.tensors) * 8 / sum(tensor.n_elements for tensor in header.tensors)


def _type_in(tensor: TensorInfo, recipe: Recipe, output: str) -> GGMLType:
    if tensor.type.name != "F16":
        return tensor.type  # norms, routers, experts published in four bits
    wanted = recipe.better if recipe.better and _is_better(tensor.name, recipe) else recipe.most
    kind = ggml_type_named("Q6_K" if tensor.name == output else wanted)
    if tensor.shape[0] % kind.block_size == 0:
        return kind
    return ggml_type_named(_FALLBACK.get(kind.name, "IQ4_NL"))


def _is_better(name: str, recipe: Recipe) -> bool:
    if "attn_v." not in name and "ffn_down" not in name:
        return False
    return recipe.everywhere or int(name.split(".")[1]) % 2 == 0
