"""A LoRA adapter by its header: which matrices stand beside which tensors of a model, and whether they can. Pure.

What llama.cpp checks (src/llama-adapter.cpp, llama_adapter_lora_init_impl) is checked here first, with words that say
what is wrong, and so is what it would only find out by an abort while it builds a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGUFHeader, TensorInfo, ValueType

_HINT = "it has to be made for this very model"
_AGAIN = "make it again with llama.cpp's convert_lora_to_gguf.py"
_EMBEDDING = "token_embd.weight"
_A, _B = ".lora_a", ".lora_b"
_ALPHA, _TOKENS = "adapter.lora.alpha", "adapter.alora.invocation_tokens"
_TEXTS = ("general.type", "general.architecture", "adapter.type")
# what ggml's CPU backend multiplies by, of the types that adapters are made in (ggml-cpu.c, type_traits_cpu)
_TYPES = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two thin matrices beside the tensor `base` of a model: b times a, scaled, is added to it."""

    base: str
    a: TensorInfo
    b: TensorInfo

    @property
    def rank(self) -> int:
        """Rows of the one and columns of the other."""
        return self.b.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its header, and its matrices by the tensors they belong to, in llama.cpp's order of names."""

    header: GGUFHeader
    pairs: tuple[Pair, ...]

    @property
    def size(self) -> int:
        """Bytes of all matrices, padding left out."""
        return sum(pair.a.size + pair.b.size for pair in self.pairs)


def parse_adapter(header: GGUFHeader) -> Adapter:
    """Return what a header says of an adapter; raises GGUFError, saying what the file is, where it is none."""
    _check_kind(header)
    if (alpha := header.metadata.get(_ALPHA)) is not None and alpha.type is not ValueType.FLOAT32:
        raise GGUFError(f"its {_ALPHA} is of type {alpha.type.name}, expected FLOAT32", _AGAIN)
    if (tokens := header.metadata.get(_TOKENS)) is not None:
        _check_tokens(tokens)
    sides: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        name, suffix = tensor.name[: -len(_A)], tensor.name[-len(_A) :]
        if suffix in (_A, _B) and _A not in name and _B not in name:
            sides.setdefault(name, {})[suffix] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # llama.cpp passes over these
            raise GGUFError(f"its tensor {tensor.name} is none of a LoRA adapter", _AGAIN)
    if not sides:
        raise GGUFError("it has no matrices", _AGAIN)
    for name, found in sides.items():
        if len(found) < 2:
            raise GGUFError(f"of the pair for {name} only {next(iter(found.values())).name} is there", _AGAIN)
    return Adapter(header, tuple(Pair(name, found[_A], found[_B]) for name, found in sorted(sides.items())))


def _check_kind(header: GGUFHeader) -> None:
    kind, _, made = (header.string_or_none(key) for key in _TEXTS)
    if kind != "adapter":
        what = "is a model" if kind in (None, "model") else f"is of the kind {kind!r}"
        raise GGUFError(f"it {what}, not a LoRA adapter", "give it as the MODEL, and with --lora a file made for it")
    if made != "lora":
        raise GGUFError(f"it is an adapter of the type {made!r}, and only LoRA is known", _AGAIN)


def _check_tokens(tokens: Entry) -> None:
    if tokens.type is not ValueType.ARRAY or tokens.element_type is not ValueType.UINT32:
        raise GGUFError(f"its {_TOKENS} are no array of UINT32", _AGAIN)
    raise GGUFError("it acts only after certain words (aLoRA), which is not supported", "take a plain LoRA adapter")


def check_base(adapter: Adapter, base: GGUFHeader) -> None:
    """Raise GGUFError where an adapter was not made for a model of this header, or could not be run with it."""
    made_for = adapter.header.architecture
    if made_for != base.architecture:
        raise GGUFError(f"it is for the architecture {made_for!r}, and the model is {base.architecture!r}", _HINT)
    tensors = {tensor.name: tensor for tensor in base.tensors}
    for pair in adapter.pairs:
        tensor = tensors.get(pair.base)
        if tensor is None:
            raise GGUFError(f"it changes {pair.base}, which the model does not have", _HINT)
        if pair.base == _EMBEDDING and "output.weight" not in tensors:
            # llama-graph.cpp, build_lora_mm, would multiply by a table of rows: GGML_ASSERT(can_mul_mat)
            raise GGUFError(f"it changes {pair.base}, which this model writes with too: the engine cannot do that")
        _check_shapes(pair, tensor)


def _check_shapes(pair: Pair, base: TensorInfo) -> None:
    a, b = pair.a.shape, pair.b.shape
    if bad := [side for side in (pair.a, pair.b) if side.type.name not in _TYPES]:
        raise GGUFError(f"its tensor {bad[0].name} is of the type {bad[0].type.name}, which cannot be used", _AGAIN)
    if len(base.shape) < 2 or not len(a) == len(b) == len(base.shape) or not a[2:] == b[2:] == base.shape[2:]:
        raise _wrong_shape(pair, base)
    looked_up = pair.base == _EMBEDDING  # a table of rows: there a is not transposed (llama-graph.cpp, build_inp_embd)
    ranks = (a[0], b[0]) if looked_up else (a[1], b[0])
    sides = (b[1], a[1]) if looked_up else (a[0], b[1])
    if sides != base.shape[:2]:
        raise _wrong_shape(pair, base)
    if ranks[0] != ranks[1]:
        raise GGUFError(f"for {pair.base} it has matrices of the ranks {ranks[0]} and {ranks[1]}", _AGAIN)


def _wrong_shape(pair: Pair, base: TensorInfo) -> GGUFError:
    a, b, has = (" x ".join(map(str, shape)) for shape in (pair.a.shape, pair.b.shape, base.shape))
    return GGUFError(f"for {pair.base} it has {a} and {b}, and the model's tensor is {has}", _HINT)
