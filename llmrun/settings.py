"""How the engine is to be run: every parameter that costs memory or time, by llama.cpp's own name.

Values only: what is chosen and why is the planner's business, what llama.cpp makes of it the worker's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import PurePath

# llama.cpp's names of the cache types it accepts for K and V (ggml.h, enum ggml_type)
KV_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "bf16", "f32")

# Context when neither the user nor a plan names one: enough for a long conversation, and 1 GiB of f16 KV cache
# on an 8B model (32 layers x 8 heads x 128 x 2 x 2 bytes x 8192).
DEFAULT_N_CTX = 8192

# The longest that may be asked for: no model is trained beyond it, and llama.cpp fills a table with a row a token
# before it asks for the cache, so that a slip of the finger would use up the machine's memory.
MAX_N_CTX = 16 << 20
MAX_THREADS = 512  # ggml.h, GGML_MAX_N_THREADS: more crash it
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ: more are refused
MAX_DRAFT = 63  # a step of 64 tokens costs a CPU as much as reading a prompt does: more cannot pay
# Guesses in a step where nothing else is said. With the token that is known they are the 8 rows up to which CUDA reads
# weights once for all (mmvq.cuh, MMVQ_MAX_BATCH_SIZE), and 7 more rows of logits: 4 MiB at 150,000 tokens.
DEFAULT_DRAFT = 7

# How weights come into memory, llama.h's enum llama_load_mode: "auto" maps the file where every device can take it.
LOAD_MODES = ("auto", "none", "mmap", "mlock", "mmap_mlock", "direct_io")

# Where the host's threads may run: wherever the system puts them; each on a physical core of its own; or thread i on
# the processors of NUMA node i, counted round (llama.cpp's GGML_NUMA_STRATEGY_DISTRIBUTE).
AFFINITIES = ("free", "cores", "nodes")


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter to run a model with: the path of its file, and how much of it is added to the model."""

    path: str
    scale: float = 1.0

    def __str__(self) -> str:
        name = PurePath(self.path).name
        return name if self.scale == 1 else f"{name} at {self.scale:g}"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One way to run one model; `None` means "choose for me".

    n_ctx: tokens; None is the trained context, at most DEFAULT_N_CTX.
    n_gpu_layers: counted from the end, output layer included; None is as many as there are.
    kv_unified: one stream of cells that all sequences share, and not n_ctx / n_seq_max cells for each.
    n_outputs_max: rows of logits a batch may ask for, draft tokens included; 0 would reserve n_batch of them. At least
    n_seq_max.
    n_batch, n_ubatch: tokens. 128 a step reads a prompt as fast as 512 on a CPU (301 against 287 tok/s, 1B Q4_K_M,
    2 threads) with a quarter of the compute buffer, and makes progress visible four times as often.
    flash_attn: None lets llama.cpp decide by what its devices can do.
    devices: what layers may be given to, by ggml's name ("CUDA0") or as "rpc:HOST:PORT"; None is every device there is.
    tensor_split: parts of the layers for each device, in the order of `devices`; None is by their free memory.
    cpu_experts: in so many layers, the first ones, the experts' weights stay on the host.
    load_mode: one of LOAD_MODES.
    repack: copy weights into the CPU's preferred layout; faster decoding, slower reading, anonymous memory.
    affinity: one of AFFINITIES. Only Linux binds threads, and only where there are several places to bind them to.
    n_draft_max: tokens that may be guessed and verified in one step, for an answer that is written alone; 0 is none.
    n_outputs_max must have room for one more.
    loras: adapters, all of them at once. projector: the file that lets the model see images, None is none.
    draft: the file of a smaller model that guesses for this one (n_draft_max), or MTP; None is none.
    """

    n_ctx: int | None = None
    n_seq_max: int = 1
    kv_unified: bool = False
    n_outputs_max: int = 1
    n_batch: int = 512
    n_ubatch: int = 128
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool | None = None
    swa_full: bool = False
    offload_kqv: bool = True
    devices: tuple[str, ...] | None = None
    n_gpu_layers: int | None = None
    tensor_split: tuple[float, ...] | None = None
    cpu_experts: int = 0
    load_mode: str = "auto"
    repack: bool = False
    n_threads: int = 1
    n_threads_batch: int = 1
    affinity: str = "free"
    n_draft_max: int = 0
    loras: tuple[Lora, ...] = ()
    projector: str | None = None
    draft: str | None = None


AUTO = "auto"  # of a projector or a draft: the one that comes with the model
MTP = "mtp"  # of a draft: the model's own layers for multi-token prediction


def choose_n_ctx(n_ctx: int | None, n_ctx_train: int) -> int:
    """Return the context to ask for: the wished one, else the trained one up to DEFAULT_N_CTX."""
    return n_ctx or min(n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the user fixed about how a model runs; None is nothing.

    n_ctx: tokens of each conversation. type_kv is for K and V alike. parallel: conversations at once. device_limits:
    bytes of each of the devices, in their order, that may be used at most; None is all that is free. loras: adapters.
    projector: a file that lets the model see images, or "auto" for the one that belongs to it; None is no images.
    n_draft_max: as of RunSettings. draft: a smaller model that guesses for this one: a file, or a name as a model's, or
    "auto" as above, or MTP.
    """

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    type_kv: str | None = None
    n_threads: int | None = None
    parallel: int | None = None
    devices: tuple[str, ...] | None = None
    device_limits: tuple[int | None, ...] = ()
    loras: tuple[Lora, ...] = ()
    projector: str | None = None
    n_draft_max: int | None = None
    draft: str | None = None

    def without(self, lenders: Collection[str]) -> Constraints:
        """Return the same without the devices of lenders, each as "rpc:HOST:PORT"; with none left, none was named."""
        if self.devices is None:
            return self
        limits = (*self.device_limits, *(None,) * (len(self.devices) - len(self.device_limits)))
        pairs = zip(self.devices, limits, strict=True)
        left = [(name, limit) for name, limit in pairs if name.partition("/")[0] not in lenders]
        if len(left) == len(self.devices):
            return self
        names, limits = tuple(name for name, _ in left), tuple(limit for _, limit in left)
        return replace(self, devices=names or None, device_limits=limits)
