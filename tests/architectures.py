"""The real engine, asked through its low-level calls what it makes of a file; a process of its own, for it may abort.

    python -m tests.architectures decode FILE...     loads each file and decodes some tokens
    python -m tests.architectures accept NAME...     loads each published shape's header, with no memory for its weights
    python -m tests.architectures quantize NAME...   asks the quantizer for each tensor's type in Q8_0 and Q4_K_M

Each answer is one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import llama_cpp as engine

from scripts.architectures.model import Model
from scripts.architectures.shapes import MODELS, small
from scripts.architectures.write import ghost

N_TOKENS = 8
LOG: list[str] = []  # llama.cpp's
FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15}  # llama.h: LLAMA_FTYPE_MOSTLY_...


@contextmanager
def ghost_file(model: Model, mix: str, *, tokenizer: bool = False) -> Iterator[str]:
    """A file of the model's full size of which only the header takes memory."""
    header, size = ghost(model, mix, tokenizer=tokenizer)
    file = os.memfd_create("ghost")
    os.write(file, header)
    os.ftruncate(file, size)
    yield f"/proc/self/fd/{file}"
    os.close(file)


@contextmanager
def loaded(path: str, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """A model and a context; the settings are llama_model_params'."""
    params = engine.llama_model_default_params()
    for name, value in ({"n_gpu_layers": 0, "use_extra_bufts": False} | settings).items():
        setattr(params, name, value)
    model = engine.llama_model_load_from_file(path.encode(), params)
    if not model:
        give_up(f"{path} is not loaded")
    wanted = engine.llama_context_default_params()
    wanted.n_ctx, wanted.n_ubatch, wanted.n_outputs_max = 512, 128, 1
    wanted.n_threads = wanted.n_threads_batch = 1
    context = engine.llama_init_from_model(model, wanted)
    if not context:
        give_up(f"{path} gets no context")
    yield model, context
    engine.llama_free(context)
    engine.llama_model_free(model)


def decoded(path: str) -> dict[str, Any]:
    """Prefill three tokens and decode greedily: which tokens came, and were all logits finite?"""
    with loaded(path) as (model, context):
        n_vocab = engine.llama_vocab_n_tokens(engine.llama_model_get_vocab(model))
        tokens, answer, finite = [10, 20, 30], [], True
        for _ in range(N_TOKENS):
            batch = engine.llama_batch_get_one((ctypes.c_int32 * len(tokens))(*tokens), len(tokens))
            if engine.llama_decode(context, batch) != 0:
                give_up(f"{path} is not decoded")
            logits = engine.llama_get_logits_ith(context, -1)[:n_vocab]
            finite = finite and all(map(math.isfinite, logits))
            tokens = [logits.index(max(logits))]
            answer += tokens
    return {"name": Path(path).stem, "n_tokens": len(answer), "n_vocab": n_vocab, "finite": finite}


def accepted(name: str) -> dict[str, Any]:
    """Load a published shape and make a context: did every tensor find its place?"""
    with ghost_file(MODELS[name], "Q4_K_M") as path, loaded(path, no_alloc=True, load_mode=0) as (model, _context):
        n_vocab = engine.llama_vocab_n_tokens(engine.llama_model_get_vocab(model))
        return {"name": name, "n_vocab": n_vocab, "n_parameters": engine.llama_model_n_params(model)}


def quantized(name: str) -> dict[str, Any]:
    """Ask llama.cpp's quantizer, without quantizing, which types it would give each tensor of both sizes of a model."""
    answer: dict[str, Any] = {"name": name}
    for label, model in (("published", MODELS[name]), ("small", small(name))):
        for mix, file_type in FILE_TYPES.items():
            answer[f"{label} {mix}"] = _quantizer_types(model, file_type)
    return answer


def _quantizer_types(model: Model, file_type: int) -> dict[str, str]:
    params = engine.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.allow_requantize, params.nthread = file_type, True, True, 1
    LOG.clear()
    with ghost_file(model, "F16") as path:
        if engine.llama_model_quantize(path.encode(), b"/dev/null", ctypes.byref(params)) != 0:
            give_up("not quantized")
    rows = re.findall(r"\]\s+(\S+)\s+- \[.*?\], type =\s+(\w+), [^\n]*?(?:\((\w+)\))?\n", "".join(LOG))
    return {tensor: (new or old).upper() for tensor, old, new in rows}


def give_up(what: str) -> NoReturn:
    """End with llama.cpp's last words."""
    sys.exit(what + ":\n" + "".join(LOG[-8:]))


COMMANDS = {"decode": decoded, "accept": accepted, "quantize": quantized}


def main() -> None:
    """Answer for each argument, in order; an abort ends the answers there."""
    command, *names = sys.argv[1:]
    collect = engine.llama_log_callback(lambda _level, text, _data: LOG.append(text.decode(errors="replace")))
    engine.llama_log_set(collect, ctypes.c_void_p())
    for name in names:
        sys.stdout.write(json.dumps(COMMANDS[command](name)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
