"""Which GGML type each tensor of a model gets: what llama.cpp's converter stores, then what its quantizer makes of it.

Written after conversion/base.py (prepare_tensors) and src/llama-quant.cpp (tensor_allows_quantization,
llama_tensor_get_type_impl, tensor_type_fallback), without imatrix and overrides.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf
from gguf import GGMLQuantizationType as Q

from scripts.architectures.model import Model, Tensor

MIXES = ("F16", "Q8_0", "Q4_K_M")

_KEPT_F32 = ("ffn_gate_inp", "ssm_conv1d", "shortconv.conv", "altup_correct_coef", "altup_predict_coef")
_NEVER_QUANTIZED = (*_KEPT_F32, "_norm.weight", "altup", "laurel", "per_layer_model_proj")
_FALLBACK = {Q.Q4_K: Q.Q5_0, Q.Q5_K: Q.Q5_1, Q.Q6_K: Q.Q8_0, Q.Q8_0: Q.F16}


def tensor_types(model: Model, mix: str) -> dict[str, Q]:
    """Return each tensor's type in a mix, one of MIXES.

    gpt-oss was published with its experts in MXFP4, and no mix changes them.
    """
    types = {tensor.name: _stored_type(model, tensor) for tensor in model.tensors}
    if mix == "F16":
        return types
    rules = _Rules(model)
    for tensor in model.tensors:
        if types[tensor.name] == Q.F16 and _is_quantized(tensor):
            wanted = Q.Q8_0 if mix == "Q8_0" else rules.q4_k_m(tensor)
            types[tensor.name] = _fitting(wanted, tensor.dims[0])
    return types


def _stored_type(model: Model, tensor: Tensor) -> Q:
    name = tensor.name
    if len(tensor.dims) == 1 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return Q.F32
    if any(part in name for part in _KEPT_F32):
        return Q.F32
    if model.architecture == "gpt-oss" and "_exps." in name:
        return Q.MXFP4
    return Q.F16


def _is_quantized(tensor: Tensor) -> bool:
    return len(tensor.dims) > 1 and not any(part in tensor.name for part in _NEVER_QUANTIZED)


def _fitting(kind: Q, n_columns: int) -> Q:
    """Return the type, or what takes its place where rows are not whole blocks of it."""
    if n_columns % gguf.GGML_QUANT_SIZES[kind][0] == 0:
        return kind
    other = _FALLBACK[kind]
    return other if n_columns % gguf.GGML_QUANT_SIZES[other][0] == 0 else Q.F16


@dataclass(slots=True)
class _Rules:
    """llama.cpp's rules for Q4_K_M; they count some tensors on the way, so all must be asked in order, each once."""

    model: Model
    value_layers: int = 0
    values_seen: int = 0
    downs_seen: int = 0
    tied: bool = True

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.model.tensors]
        self.value_layers = sum(_is_value(name) for name in names)
        self.tied = "output.weight" not in names

    def q4_k_m(self, tensor: Tensor) -> Q:
        name, n_expert = tensor.name, self.model.uint("expert_count")
        if name == "output.weight" or (self.tied and name.endswith("token_embd.weight")):
            return Q.Q6_K if tensor.dims[0] % 256 == 0 else Q.Q8_0
        if name.endswith("token_embd.weight"):
            return Q.Q4_K
        if _is_value(name):
            self.values_seen += 1
            return self._value(self.values_seen - 1, n_expert)
        if "attn_k.weight" in name and n_expert == 8:
            return Q.Q8_0
        if "attn_output.weight" in name and n_expert == 8:
            return Q.Q5_K
        if "ffn_down" in name:
            self.downs_seen += 1
            index = int(name.split(".")[1]) if n_expert > 1 else self.downs_seen - 1
            return Q.Q6_K if _more_bits(index, self.model.n_layer) else Q.Q4_K
        return Q.Q4_K

    def _value(self, index: int, n_expert: int) -> Q:
        if n_expert == 8:
            return Q.Q8_0
        if _more_bits(index, self.value_layers):
            return Q.Q6_K
        grouped = self.model.uint("attention.head_count") != self.model.uint("attention.head_count_kv")
        seventy = self.model.n_layer == 80 and self.model.architecture in ("llama", "qwen2") and grouped
        return Q.Q5_K if seventy else Q.Q4_K


def _is_value(name: str) -> bool:
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _more_bits(index: int, count: int) -> bool:
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
