"""Greedy answers of a GGUF file, each in a fresh conversation. The only module that runs an engine."""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp

LIMIT = 120  # tokens of an answer
CONTEXT = 512


def answer(model_path: Path, questions: Iterable[str]) -> list[str]:
    """What the model at `model_path` answers to each question, decoded greedily on the CPU."""
    with _loaded(model_path) as (model, context):
        return [_complete(model, context, question) for question in questions]


@contextmanager
def _loaded(path: Path) -> Iterator[tuple[Any, Any]]:
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    model_parameters = llama_cpp.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
    if not model:
        raise RuntimeError(f"llama.cpp could not load {path}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = CONTEXT, 1, 1
    context = llama_cpp.llama_init_from_model(model, parameters)
    try:
        yield model, context
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def _complete(model: Any, context: Any, question: str) -> str:
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    tokens = [*_tokens(vocabulary, "<|im_start|>user\n", special=True), *_tokens(vocabulary, question, special=False),
              *_tokens(vocabulary, "<|im_end|>\n<|im_start|>assistant\n", special=True)]  # fmt: skip
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    text = b""
    for _ in range(LIMIT):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError(f"llama.cpp could not decode {question!r}")
        logits = llama_cpp.llama_get_logits_ith(context, -1)[:size]
        best = max(range(size), key=logits.__getitem__)
        if llama_cpp.llama_vocab_is_eog(vocabulary, best):
            break
        text += _piece(vocabulary, best)
        tokens = [best]
    return text.decode(errors="replace")


def _tokens(vocabulary: Any, text: str, *, special: bool) -> list[int]:
    raw = text.encode()
    array = (llama_cpp.llama_token * (len(raw) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), array, len(array), False, special)
    return list(array[:count])


def _piece(vocabulary: Any, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(256)
    size = llama_cpp.llama_token_to_piece(vocabulary, token, buffer, 256, 0, False)
    return buffer.raw[:size]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Log nothing."""
