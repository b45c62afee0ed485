"""Where the time of a token goes: python -m scripts.benchmarks.shares MODEL [--threads N] [--depth N] [--repack].

llama.cpp computes node by node where somebody wants to see the results (llama_context_params.cb_eval), and so each can
be timed: between the question whether its result is wanted and the word that it is there. What is fused otherwise is
apart then, and threads meet after each node as always: the sum of all nodes stands beside a token's real time.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.gguf.source import read_model_header
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.llama import Context, Model, load_model, start_backend
from llmrun.worker.params import context_params
from llmrun.worker.sampling import Sampler
from scripts.benchmarks.limit import Memory

_STEPS = 24
_GROUPS = {
    "attn_": "matrices, attention",
    "ffn_": "matrices, feed-forward",
    "output": "matrix, output",
    "token_embd": "matrix, output",
}
_OPS = {"FLASH_ATTN_EXT": "attention", "SOFT_MAX": "attention", "SET_ROWS": "cache written", "CPY": "cache written"}


class _Tensor(ctypes.Structure):  # ggml.h, struct ggml_tensor, as far as src[0]
    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
    )


@dataclass(slots=True)
class _Watch:
    """Times nodes by what they are: seconds of each group in each token, and the bytes of their weights."""

    tokens: list[dict[str, float]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    _asked: float = 0.0

    def begin(self) -> None:
        self.tokens.append(defaultdict(float))

    def see(self, pointer: int, ask: bool, _: Any) -> bool:
        now = time.perf_counter()
        if not ask and self.tokens:
            self.tokens[-1][self._group(pointer)] += now - self._asked
        self._asked = time.perf_counter()
        return True

    def _group(self, pointer: int) -> str:
        op = _text("ggml_op_desc", pointer)
        if op != "MUL_MAT":
            return _OPS.get(op, "the rest: norms, rope, sums")
        source = _Tensor.from_address(pointer).src[0]
        name = _text("ggml_get_name", source)
        group = next((group for part, group in _GROUPS.items() if part in name), "attention")
        if len(self.tokens) == 1:
            self.sizes[group] = self.sizes.get(group, 0) + int(_function("ggml_nbytes", ctypes.c_size_t)(source))
        return group


def _function(name: str, result: Any) -> Any:
    found = lib._lib[name]
    found.restype, found.argtypes = result, [ctypes.c_void_p]
    return found


def _text(name: str, pointer: int) -> str:
    return str(_function(name, ctypes.c_char_p)(pointer).decode())


def _seconds(context: Context, depth: int, watch: _Watch | None = None) -> list[float]:
    context.clear()
    here = 0
    while here < depth:
        n = min(context.n_step, depth - here)
        context.decode([index % 250 for index in range(n)], here, want_logits=False)
        here += n
    times = []
    for index in range(_STEPS):
        if watch is not None:
            watch.begin()
        started = time.perf_counter()
        context.decode([7 * index % 250], depth + index, want_logits=True)
        times.append(time.perf_counter() - started)
    return times


class _Watched(Context):
    """A context whose nodes are seen one by one."""

    def __init__(self, model: Model, settings: RunSettings, watch: _Watch) -> None:
        super().__init__(model, settings, CancelFlag())
        params = context_params(settings, model.n_ctx_train)
        self._callback = params.cb_eval = lib.ggml_backend_sched_eval_callback(watch.see)  # kept: C has its address
        lib.llama_free(self.pointer)
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        self._memory = lib.llama_get_memory(self.pointer)


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(prog="shares", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=32, help="tokens in the cache")
    parser.add_argument("--repack", action="store_true")
    wish = parser.parse_args()
    read_model_header(wish.model)  # which says what is wrong with it
    start_backend()
    settings = RunSettings(
        n_ctx=wish.depth + _STEPS + 1, n_threads=wish.threads, n_threads_batch=wish.threads, repack=wish.repack
    )
    model, watch = load_model(wish.model, settings), _Watch()
    plain, watched = Context(model, settings, CancelFlag()), _Watched(model, settings, watch)
    token = median(_seconds(plain, wish.depth)[1:])
    seen = median(_seconds(watched, wish.depth, watch)[1:])
    sampler = Sampler(Sampling(seed=0), model.vocabulary.n_tokens, ())
    draws = [_timed(lambda: sampler.draw(plain)) for _ in range(_STEPS)]
    bandwidth = Memory.of(wish.threads).bandwidth(_STEPS)
    _show(watch, token, seen, median(draws), bandwidth)


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _show(watch: _Watch, token: float, seen: float, draw: float, bandwidth: float) -> None:
    groups = {group: median(one.get(group, 0.0) for one in watch.tokens[1:]) for group in watch.tokens[-1]}
    whole = sum(groups.values())
    print(f"a token: {token * 1e3:.2f} ms; node by node {seen * 1e3:.2f} ms, of it in nodes {whole * 1e3:.2f} ms")
    for group, seconds in sorted(groups.items(), key=lambda pair: -pair[1]):
        size = watch.sizes.get(group)
        reached = (
            "" if not size else f"  {size / seconds / 1e9:5.1f} GB/s, {size / seconds / bandwidth:.0%} of memory's"
        )
        print(f"  {group:<28} {seconds * 1e3:8.3f} ms {seconds / whole:6.1%}{reached}")
    print(f"  drawing it (default sampling) {draw * 1e3:7.3f} ms {draw / token:6.1%} of a token, beside it")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
