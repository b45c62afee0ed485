"""What llmrun is measured against: a bare llama_decode and C sampler loop in a process of its own.

Run as a module with a model's path, thread count and n_ubatch; reads lines "N_PROMPT N_TOKENS" and answers each with
"SECONDS_TO_FIRST SECONDS_OF_THE_REST", the time to read the prompt and draw the first token, and to write the others.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from llmrun.settings import RunSettings


class BareLoop:
    """The other process."""

    def __init__(self, model: Path, settings: RunSettings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(model), str(settings.n_threads), str(settings.n_ubatch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.measure(8, 2)  # loaded, and its pages touched

    def __enter__(self) -> BareLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def measure(self, n_prompt: int, n_tokens: int) -> tuple[float, float]:
        """Seconds to the first token after a prompt of n_prompt tokens, and from there to the last of n_tokens."""
        assert self._process.stdin
        assert self._process.stdout
        print(n_prompt, n_tokens, file=self._process.stdin, flush=True)
        first, rest = self._process.stdout.readline().split()
        return float(first), float(rest)


def _serve(path: str, n_threads: int, n_ubatch: int) -> None:
    from llama_cpp import llama_cpp as lib

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = RunSettings().repack
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_outputs_max = 2048, 512, n_ubatch, 1
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type, params.no_perf = lib.LLAMA_FLASH_ATTN_TYPE_AUTO, True
    context = lib.llama_init_from_model(model, params)
    sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_greedy())
    for line in sys.stdin:
        n_prompt, n_tokens = map(int, line.split())
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        prompt = (lib.llama_token * n_prompt)(*(3 + (i * 7919) % 250 for i in range(n_prompt)))
        token = (ctypes.c_int32 * 1)()
        start = time.perf_counter()
        lib.llama_decode(context, lib.llama_batch_get_one(prompt, n_prompt))
        token[0] = lib.llama_sampler_sample(sampler, context, -1)
        first = time.perf_counter()
        batch = lib.llama_batch_get_one(token, 1)
        for _ in range(n_tokens - 1):
            lib.llama_decode(context, batch)
            token[0] = lib.llama_sampler_sample(sampler, context, -1)
        print(first - start, time.perf_counter() - first, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
