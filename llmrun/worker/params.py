"""RunSettings as llama.cpp's two parameter structs: every field that matters is set on purpose.

Pointers in the structs point into memory that Python owns: a struct made here keeps it alive as long as it lives.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.errors import UsageError
from llmrun.settings import MTP, RunSettings, choose_n_ctx
from llmrun.worker.devices import bind, devices

_KV_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,  # ggml.h, enum ggml_type; the bindings leave it out
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
}
_LOAD_MODES = {
    "auto": lib.LLAMA_LOAD_MODE_AUTO,
    "none": lib.LLAMA_LOAD_MODE_NONE,
    "mmap": lib.LLAMA_LOAD_MODE_MMAP,
    "mlock": lib.LLAMA_LOAD_MODE_MLOCK,
    "mmap_mlock": lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
    "direct_io": lib.LLAMA_LOAD_MODE_DIRECT_IO,
}
_FLASH_ATTN = {
    None: lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    True: lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
# The tensors of one layer's experts (llama.cpp's common/common.h, LLM_FFN_EXPS_REGEX)
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


class _Override(ctypes.Structure):  # llama.h, struct llama_model_tensor_buft_override
    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def model_params(settings: RunSettings) -> Any:
    """Return llama_model_params; raises UsageError for a device there is not, EngineError for one not reached."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = -1 if settings.n_gpu_layers is None else settings.n_gpu_layers
    params.load_mode = _LOAD_MODES[settings.load_mode]
    params.use_extra_bufts = settings.repack
    params.load_mtp = settings.draft == MTP
    params.owned = []  # what the struct points to
    if settings.devices is not None:
        chosen = devices().open(settings.devices)
        _point(params, "devices", (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None))
    if settings.tensor_split is not None:
        room = int(lib.llama_max_devices())
        if len(settings.tensor_split) > room:
            raise UsageError(f"the split has {len(settings.tensor_split)} parts: llama.cpp takes at most {room}")
        split = (ctypes.c_float * room)(*settings.tensor_split)
        params.owned.append(split)
        params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
    if settings.cpu_experts:
        cpu = bind("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
        pattern = rf"blk\.({numbers_below(settings.cpu_experts)}){_EXPERTS}"
        _point(params, "tensor_buft_overrides", (_Override * 2)(_Override(pattern.encode(), cpu), _Override()))
    return params


def _point(params: Any, field: str, array: Any) -> None:
    params.owned.append(array)
    setattr(params, field, ctypes.cast(array, ctypes.c_void_p))


def numbers_below(limit: int) -> str:
    """Return a regular expression for the decimal numbers from 0 to limit − 1.

    One expression for all layers: llama.cpp compiles each of them anew for every tensor.
    """
    digits = str(limit - 1)
    parts = ["[0-9]" if n == 1 else f"[1-9][0-9]{{{n - 1}}}" for n in range(1, len(digits))]
    for index, digit in enumerate(digits):
        last = index == len(digits) - 1
        low, high = int(index == 0 and len(digits) > 1), int(digit) - (not last)
        if low <= high:
            rest = len(digits) - index - 1
            parts.append(f"{digits[:index]}[{low}-{high}]" + f"[0-9]{{{rest}}}" * (rest > 0))
    return "|".join(parts)


def context_params(settings: RunSettings, n_ctx_train: int) -> Any:
    """Return llama_context_params; raises UsageError for settings that llama.cpp would answer with an abort."""
    if settings.n_outputs_max < settings.n_seq_max:
        raise UsageError(
            f"{settings.n_seq_max} sequences need as many outputs: n_outputs_max is {settings.n_outputs_max}"
        )
    params = lib.llama_context_default_params()
    params.n_ctx = choose_n_ctx(settings.n_ctx, n_ctx_train)
    params.n_batch = settings.n_batch
    params.n_ubatch = settings.n_ubatch
    params.n_seq_max = settings.n_seq_max
    params.n_outputs_max = settings.n_outputs_max
    params.n_threads = settings.n_threads
    params.n_threads_batch = settings.n_threads_batch
    params.type_k = _KV_TYPES[settings.type_k]
    params.type_v = _KV_TYPES[settings.type_v]
    params.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
    params.swa_full = settings.swa_full
    params.offload_kqv = settings.offload_kqv
    params.kv_unified = settings.kv_unified
    params.no_perf = True
    params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE  # hidden states of all tokens are pooled in worker.embedding
    return params
