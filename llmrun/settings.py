"""How the engine is to be run: every parameter that costs memory or time, by llama.cpp's own name.

Values only: what is chosen and why is the planner's business, what llama.cpp makes of it the worker's.
"""

from __future__ import annotations

from dataclasses import dataclass

# llama.cpp's names of the cache types it accepts for K and V (ggml.h, enum ggml_type)
KV_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "bf16", "f32")

# Context when neither the user nor a plan names one: enough for a long conversation, and 1 GiB of f16 KV cache
# on an 8B model (32 layers x 8 heads x 128 x 2 x 2 bytes x 8192).
DEFAULT_N_CTX = 8192

# The longest that may be asked for: no model is trained beyond it, and llama.cpp fills a table with a row a token
# before it asks for the cache, so that a slip of the finger would use up the machine's memory.
MAX_N_CTX = 16 << 20
MAX_THREADS = 512  # ggml.h, GGML_MAX_N_THREADS: more crash it


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One way to run one model; `None` means "choose for me".

    n_ctx: tokens; None is the trained context, at most DEFAULT_N_CTX.
    n_gpu_layers: counted from the end, output layer included; None is as many as there are.
    n_outputs_max: rows of logits a batch may ask for, draft tokens included; 0 would reserve n_batch of them.
    n_batch, n_ubatch: tokens. 128 a step reads a prompt as fast as 512 on a CPU (301 against 287 tok/s, 1B Q4_K_M,
    2 threads) with a quarter of the compute buffer, and makes progress visible four times as often.
    repack: copy weights into the CPU's preferred layout; faster decoding, slower reading, anonymous memory.
    """

    n_ctx: int | None = None
    n_seq_max: int = 1
    n_outputs_max: int = 1
    n_batch: int = 512
    n_ubatch: int = 128
    type_k: str = "f16"
    type_v: str = "f16"
    swa_full: bool = False
    offload_kqv: bool = True
    n_gpu_layers: int | None = None
    repack: bool = False
    n_threads: int = 1
    n_threads_batch: int = 1


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the user fixed about how a model runs; None is nothing. type_kv is for K and V alike."""

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    type_kv: str | None = None
    n_threads: int | None = None


def settings_for(constraints: Constraints, n_threads: int) -> RunSettings:
    """Return the settings for what the user fixed, on a machine with n_threads useful threads."""
    threads = constraints.n_threads or n_threads
    type_kv = constraints.type_kv or "f16"
    return RunSettings(
        n_ctx=constraints.n_ctx,
        n_gpu_layers=constraints.n_gpu_layers,
        type_k=type_kv,
        type_v=type_kv,
        n_threads=threads,
        n_threads_batch=threads,
    )
