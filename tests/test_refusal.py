"""engine.refusal: what an engine that was refused memory says, and what of it reaches who asked for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.refusal import has_lost_a_server, parse_refusal
from llmrun.engine.wire import error_of, failure_of
from llmrun.errors import GGUFError, InsufficientMemoryError, LenderLostError, Refusal, WorkerDiedError
from llmrun.gguf.encode import encode_header, without_tokenizer
from llmrun.gguf.source import read_model_header
from llmrun.memory.engine_memory import EngineMemory
from llmrun.settings import RunSettings
from scripts.synthetic import Shape, write_model
from tests.conftest import ONE_THREAD, ask
from tests.lent import Lent, lender, limit_memory, linux_only

MIB = 1 << 20

# As llama.cpp 0c1e57098 printed them here, under a limit of addresses.
CAPTURED = {
    "weights on a server": (
        "alloc_tensor_range: failed to allocate RPC0[127.0.0.1:53619] buffer of size 143233024\n"
        "llama_model_load: error loading model: unable to allocate RPC0[127.0.0.1:53619] buffer\n"
        "llama_model_load_from_file_impl: failed to load model",
        Refusal("rpc:127.0.0.1:53619", 143233024, "weights"),
    ),
    "KV cache on a server": (
        "alloc_tensor_range: failed to allocate RPC0[127.0.0.1:53619] buffer of size 268435456\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        Refusal("rpc:127.0.0.1:53619", 268435456, "kv_cache"),
    ),
    "graph on a server": (
        "ggml_gallocr_reserve_n_impl: failed to allocate RPC0[127.0.0.1:53619] buffer of size 302153760\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers",
        Refusal("rpc:127.0.0.1:53619", 302153760, "compute"),
    ),
    "weights on the host": (
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 136.60 MB)\n"
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 143233024\n"
        "alloc_tensor_range: failed to allocate CPU buffer of size 143233024\n"
        "llama_model_load: error loading model: unable to allocate CPU buffer",
        Refusal(None, 143233024, "weights"),
    ),
    "a file that cannot be mapped": (
        "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)\n"
        "llama_model_load: error loading model: mmap failed: Cannot allocate memory",
        Refusal(None, None, "weights"),
    ),
    "KV cache on the host": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 2147483648\n"
        "alloc_tensor_range: failed to allocate CPU buffer of size 2147483648\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        Refusal(None, 2147483648, "kv_cache"),
    ),
    "graph on the host": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 671285280\n"
        "ggml_gallocr_reserve_n_impl: failed to allocate CPU buffer of size 671285280\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers",
        Refusal(None, 671285280, "compute"),
    ),
}
# As its source has it (format strings of the functions named in engine/refusal.py); not seen on such hardware.
CUDA, METAL = "ggml_backend_cuda_buffer_type_alloc_buffer", "ggml_backend_metal_buffer_type_alloc_buffer"
FROM_THE_SOURCE = {
    "CUDA, weights": (
        f"{CUDA}: allocating 4437.80 MiB on device 1: cudaMalloc failed: out of memory\n"
        "alloc_tensor_range: failed to allocate CUDA1 buffer of size 4653375488\n"
        "llama_model_load: error loading model: unable to allocate CUDA1 buffer",
        Refusal("CUDA1", 4653375488, "weights"),
    ),
    "CUDA, graph, the second try without pipeline": (
        f"{CUDA}: allocating 900.00 MiB on device 0: cudaMalloc failed: out of memory\n"
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 943718400\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism\n"
        f"{CUDA}: allocating 500.00 MiB on device 1: cudaMalloc failed: out of memory\n"
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 524288000\n"
        "graph_reserve: failed to allocate compute buffers\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers",
        Refusal("CUDA1", 524288000, "compute"),
    ),
    "CUDA, only its own line is left": (
        f"{CUDA}: allocating 900.50 MiB on device 0: cudaMalloc failed: out of memory",
        Refusal("CUDA0", 944242688, None),
    ),
    "CUDA, while computing": (
        "CUDA error: out of memory\n"
        "  current device: 1, in function alloc at ggml-cuda.cu:502\n  err\nggml-cuda.cu:109: CUDA error",
        Refusal("CUDA1", None, "compute"),
    ),
    "ROCm, recurrent state": (
        "alloc_tensor_range: failed to allocate ROCm0 buffer of size 171966464\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for rs cache",
        Refusal("ROCm0", 171966464, "kv_cache"),
    ),
    "Metal, KV cache": (
        "ggml_metal_buffer_init: error: failed to allocate buffer, size =  4096.00 MiB\n"
        f"{METAL}: failed to allocate Metal buffer of 4294967296 bytes (out of memory)\n"
        "alloc_tensor_range: failed to allocate MTL0_Private buffer of size 4294967296\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        Refusal("MTL0", 4294967296, "kv_cache"),
    ),
    "Metal, a mapped file": (
        "ggml_metal_buffer_map: error: failed to allocate buffer, size = 19458.25 MiB\n"
        "llama_model_load: error loading model: unable to allocate MTL0 buffer",
        Refusal("MTL0", 20403453952, "weights"),
    ),
    "Vulkan, weights": (
        "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 4653375488\n"
        "llama_model_load: error loading model: unable to allocate Vulkan0 buffer",
        Refusal("Vulkan0", 4653375488, "weights"),
    ),
    "pinned memory is the host's": (
        "alloc_tensor_range: failed to allocate CUDA_Host buffer of size 1048576\n"
        "llama_model_load: error loading model: unable to allocate CUDA_Host buffer",
        Refusal(None, 1048576, "weights"),
    ),
    "repacked weights are the host's": (
        "alloc_tensor_range: failed to allocate CPU_REPACK buffer of size 1048576\n"
        "llama_model_load: error loading model: unable to allocate CPU_REPACK buffer",
        Refusal(None, 1048576, "weights"),
    ),
    "logits": (
        "output_reserve: failed to allocate output buffer of size 1.50 MiB\n"
        "llama_init_from_model: failed to initialize the context: failed to reserve initial output buffer",
        Refusal(None, 1572864, "compute"),
    ),
    "tables of C++": (
        "llama_init_from_model: failed to initialize the context: std::bad_alloc",
        Refusal(None, None, None),
    ),
}
CASES = CAPTURED | FROM_THE_SOURCE


@pytest.mark.parametrize(("log", "refusal"), CASES.values(), ids=CASES.keys())
def test_a_log_tells_who_refused_how_much_for_what(log: str, refusal: Refusal) -> None:
    assert parse_refusal(log) == refusal
    assert parse_refusal(log.splitlines()) == refusal


@pytest.mark.parametrize(
    "log",
    [
        "",
        "llama_model_load: error loading model: unknown model architecture: 'zorglub9'",
        "llama_model_load: error loading model: check_tensor_dims: tensor 'x' has wrong shape",
        # what goes on without: Vulkan and SYCL without pinned memory, a system that locks no more
        "ggml_vulkan: Failed to allocate pinned memory (vk::Device::allocateMemory: ErrorOutOfHostMemory)",
        "ggml_sycl_host_malloc: failed to allocate 100.00 MiB of pinned memory",
        "warning: failed to mlock 123-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
    ],
)
def test_what_is_no_refusal_is_none(log: str) -> None:
    assert parse_refusal(log) is None


def test_a_servers_second_device_is_known_by_its_memory() -> None:
    log = "alloc_tensor_range: failed to allocate RPC3[10.0.0.7:50052] buffer of size 5"
    names = {"RPC3[10.0.0.7:50052]": "rpc:10.0.0.7:50052/1"}
    assert parse_refusal(log, names) == Refusal("rpc:10.0.0.7:50052/1", 5, None)


def test_a_refusal_crosses_the_wall_between_the_processes() -> None:
    error = InsufficientMemoryError("no", "less", Refusal("CUDA0", 5, "weights"))
    back = error_of(failure_of(error))
    assert isinstance(back, InsufficientMemoryError)
    assert (back.message, back.hint, back.refusal) == (error.message, error.hint, error.refusal)
    assert not hasattr(error_of(failure_of(GGUFError("no"))), "refusal")


# ---- the real engine, really refused

# 137 MiB of weights, 2 to 32 MiB of KV cache a layer, a graph of 4.6 to 288: sizes that a limit can be put between.
SHAPE = Shape(n_layer=8, n_embd=1024, n_ff=4096, n_head=16, n_head_kv=16, n_ctx_train=65536)
ROOM = 104 * MIB  # between the smallest that is refused and the largest that is granted, and threads' own addresses
ON_THE_HOST = replace(ONE_THREAD, devices=())


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 137 MiB."""
    return write_model(tmp_path_factory.mktemp("refused") / "large.gguf", SHAPE, mix="Q8_0")


@pytest.fixture
def start_server() -> Iterator[Callable[[], Lent]]:
    """A function that starts a server which may be maltreated."""
    with lender() as start:
        yield start


def planned(path: Path, settings: RunSettings) -> EngineMemory:
    """What the engine says the model would take, before it is loaded."""
    header = without_tokenizer(read_model_header(path))
    with Engine() as engine:
        return engine.dry_run(encode_header(header), header.file_size, settings)


def refusal_of(engine: Engine, path: Path, settings: RunSettings) -> Refusal | None:
    with pytest.raises(InsufficientMemoryError) as caught:
        engine.load(path, settings)
    return caught.value.refusal


@linux_only
def test_a_device_that_runs_out_of_memory_refuses_what_the_plan_says(
    start_server: Callable[[], Lent], large_model: Path
) -> None:
    """Weights, KV cache and graph, to the byte; and the same worker then loads what fits, and answers."""
    server = start_server()
    base = replace(ONE_THREAD, devices=(server.id,))
    weights = replace(base, n_gpu_layers=None, n_ctx=512)
    cache = replace(base, n_gpu_layers=2, n_ctx=65536)
    graph = replace(base, n_gpu_layers=2, n_ctx=8192, n_batch=8192, n_ubatch=8192)
    plans = [planned(large_model, settings).devices[0] for settings in (weights, cache, graph)]
    server.limit_memory(ROOM)
    with Engine() as engine:
        assert refusal_of(engine, large_model, weights) == Refusal(server.id, plans[0].weights, "weights")
        assert refusal_of(engine, large_model, cache) == Refusal(server.id, plans[1].kv_cache, "kv_cache")
        assert refusal_of(engine, large_model, graph) == Refusal(server.id, plans[2].compute, "compute")
        engine.load(large_model, replace(base, n_gpu_layers=2, n_ctx=512))
        assert ask(engine, "hi", max_tokens=3)


@linux_only
@pytest.mark.parametrize(
    ("settings", "what", "room"),
    [
        (replace(ON_THE_HOST, n_ctx=512, load_mode="none"), "weights", 96 * MIB),
        (replace(ON_THE_HOST, n_ctx=65536), "kv_cache", 512 * MIB),
        (replace(ON_THE_HOST, n_ctx=8192, n_batch=8192, n_ubatch=8192), "compute", 592 * MIB),
    ],
    ids=["weights", "kv_cache", "compute"],
)
def test_a_host_that_runs_out_of_memory_refuses_what_the_plan_says(
    large_model: Path, settings: RunSettings, what: str, room: int
) -> None:
    host = planned(large_model, settings).host
    with Engine() as engine:
        engine.devices()  # it has started: what it takes by itself is there
        limit_memory(engine.pid, room)
        refusal = refusal_of(engine, large_model, settings)
    assert refusal == Refusal(None, getattr(host, what), what)  # type: ignore[arg-type]


@linux_only
def test_a_file_that_cannot_be_mapped_is_a_lack_of_memory(large_model: Path) -> None:
    with Engine() as engine:
        engine.devices()
        limit_memory(engine.pid, 96 * MIB)
        assert refusal_of(engine, large_model, ON_THE_HOST) == Refusal(None, None, "weights")


NOTHING_YET, BUFFERS_THERE = "load_tensors: loading model tensors", "model buffer size ="


class Strike:
    """Does something to a worker in the middle of its load, at a line that comes before the weights do.

    The worker is held meanwhile, so that the load cannot be over before it is struck.
    """

    def __init__(self, strike: Callable[[int], None], line: str = NOTHING_YET) -> None:
        self._strike, self._line = strike, line
        self._engine = Engine(self._hear)
        self._struck = False

    def _hear(self, line: str) -> None:
        if not self._struck and self._line in line:
            self._struck = True
            os.kill(self._engine.pid, signal.SIGSTOP)
            self._strike(self._engine.pid)
            os.kill(self._engine.pid, signal.SIGCONT)

    def death(self, path: Path, settings: RunSettings) -> WorkerDiedError:
        """How the load ended."""
        with self._engine as engine, pytest.raises(WorkerDiedError) as caught:
            engine.load(path, settings)
        assert self._struck
        return caught.value


@linux_only
@pytest.mark.parametrize("line", [NOTHING_YET, BUFFERS_THERE])
def test_a_server_that_dies_in_a_load_is_told_of(
    start_server: Callable[[], Lent], large_model: Path, line: str
) -> None:
    server = start_server()
    settings = replace(ONE_THREAD, devices=(server.id,), load_mode="none")
    error = Strike(lambda _: server.end(), line).death(large_model, settings)
    assert isinstance(error, LenderLostError)
    assert (error.lenders, error.refusal) == ((server.id,), None)
    assert error.message == f"{server.id} is gone: the engine lost what was lent while it loaded the model"
    assert has_lost_a_server(error.log)


@linux_only
def test_a_server_that_dies_in_an_answer_is_told_of(start_server: Callable[[], Lent], tiny_model: Path) -> None:
    server = start_server()
    with Engine() as engine:
        engine.load(tiny_model, replace(ONE_THREAD, devices=(server.id,)))
        server.end()
        with pytest.raises(LenderLostError) as caught:
            ask(engine, "hi", max_tokens=3)
    assert (caught.value.lenders, has_lost_a_server(caught.value.log)) == ((server.id,), True)


@linux_only
def test_a_worker_killed_in_a_load_is_known_by_the_signal(large_model: Path) -> None:
    """As the system does when memory runs out."""
    error = Strike(lambda pid: os.kill(pid, signal.SIGKILL)).death(large_model, ON_THE_HOST)
    assert (error.signal, error.refusal) == (signal.SIGKILL, None)
    assert error.message == "the engine's process was killed (SIGKILL) while it loaded the model"


@linux_only
def test_an_old_refusal_is_not_taken_for_the_reason_of_a_kill(large_model: Path) -> None:
    with Engine() as engine:
        engine.devices()
        limit_memory(engine.pid, 96 * MIB)
        assert refusal_of(engine, large_model, replace(ON_THE_HOST, n_ctx=512, load_mode="none"))
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError) as caught:
            engine.devices()
    assert (caught.value.signal, caught.value.refusal) == (signal.SIGKILL, None)
    assert any("failed to allocate" in line for line in caught.value.log)
