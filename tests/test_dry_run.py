"""worker.dry_run: what llama.cpp says before the weights are there is what it allocates once they are, to the byte."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from llmrun.engine.client import Engine
from llmrun.engine.layouts import read_layouts
from llmrun.engine.questions import Questions
from llmrun.errors import GGUFError, UsageError, WorkerDiedError
from llmrun.gguf.encode import encode_header, without_tokenizer
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.hardware.layout import Matrix, layout_of
from llmrun.memory.engine_memory import EngineMemory
from llmrun.settings import RunSettings
from scripts.architectures.shapes import small
from scripts.architectures.write import ghost, write
from scripts.synthetic import SMALL, Shape, write_model
from tests.conftest import ONE_THREAD, ask

StartEngine = Callable[..., Engine]
HOST = replace(ONE_THREAD, devices=(), load_mode="none", n_ctx=1024)


@pytest.fixture(scope="module")
def asker() -> Iterator[Engine]:
    """An engine that never loads anything."""
    with Engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a small model with the structure of a published one, once."""
    folder = tmp_path_factory.mktemp("architectures")

    def model(name: str, mix: str = "Q4_K_M") -> Path:
        path = folder / f"{name}-{mix}.gguf"
        return path if path.exists() else write(path, small(name), mix)

    return model


def short_header(path: Path) -> tuple[bytes, int]:
    """The header of a file without its tokenizer, and the size of a file with such a header."""
    header = parse_header(path.read_bytes())
    assert isinstance(header, GGUFHeader)
    short = encode_header(without_tokenizer(header))
    return short, len(short) + header.data_size


def predicted(engine: Engine, path: Path, settings: RunSettings) -> EngineMemory:
    """What a dry run says of a file, by its header alone."""
    return engine.dry_run(*short_header(path), settings)


def loaded(path: Path, settings: RunSettings) -> EngineMemory:
    """What a load of the same file really took."""
    with Engine() as engine:
        memory = engine.load(path, settings).memory
    assert memory
    return memory


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_ctx": None},
        {"n_ctx": 300, "n_batch": 64, "n_ubatch": 32},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"type_k": "q8_0", "type_v": "f16"},
        {"type_k": "f32", "type_v": "bf16", "flash_attn": False},
        {"flash_attn": True},
        {"flash_attn": False},
        {"n_seq_max": 4, "n_outputs_max": 4},
        {"n_seq_max": 3, "n_outputs_max": 8, "kv_unified": True},
        {"n_outputs_max": 64},
        {"repack": True},
        {"n_seq_max": 31, "n_outputs_max": 31, "n_ubatch": 16},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-30b-a3b", "gemma-3-1b"])
def test_a_dry_run_is_a_real_load_to_the_byte(
    asker: Engine, models: Callable[..., Path], name: str, changes: dict[str, Any]
) -> None:
    settings = replace(HOST, **changes)
    path = models(name)
    assert predicted(asker, path, settings) == loaded(path, settings)


@pytest.mark.parametrize("n_seq_max", [1, 4])
@pytest.mark.parametrize(
    "name", ["mamba-130m", "falcon-h1-0.5b", "qwen3.5-4b", "lfm2-1.2b", "gemma-4-e2b", "deepseek-v2-lite"]
)
def test_states_and_other_kinds_of_caches_are_a_real_loads_too(
    asker: Engine, models: Callable[..., Path], name: str, n_seq_max: int
) -> None:
    settings = replace(HOST, n_seq_max=n_seq_max, n_outputs_max=n_seq_max)
    path = models(name)
    found = predicted(asker, path, settings)
    assert found == loaded(path, settings)
    assert (found.state > 0) == (name not in ("gemma-4-e2b", "deepseek-v2-lite"))
    assert found.state + found.kv_cache == found.host.kv_cache


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q8_0", "F16"])
def test_repacked_weights_are_the_hosts(asker: Engine, models: Callable[..., Path], mix: str) -> None:
    """Every matrix of a type that this CPU repacks; the tied embedding is there a second time, as the output."""
    path = models("llama-3.2-1b", mix)
    header = parse_header(path.read_bytes())
    assert isinstance(header, GGUFHeader)
    layouts = read_layouts()
    plain, repacked = (predicted(asker, path, replace(HOST, repack=repack)) for repack in (False, True))
    kept = []
    for tensor in header.tensors:
        columns, rows = (*tensor.shape, 1)[:2]
        matrix = Matrix(tensor.type.name, rows, columns, tensor.n_elements // tensor.type.block_size, tensor.size)
        layout = layout_of(matrix, layouts) if len(tensor.shape) == 2 else None
        if layout is not None:
            kept.append((tensor, layout.more * matrix.n_blocks))
    again = sum(tensor.size for tensor, _ in kept if tensor.name == "token_embd.weight")
    more = sum(bytes_more for _, bytes_more in kept)
    assert plain.host.repack == 0
    assert repacked.host.repack == more + sum(tensor.size for tensor, _ in kept)
    assert repacked.host.weights == plain.host.weights + again + more
    assert mix != "Q4_K_M" or not layouts or kept


@pytest.mark.parametrize("n_gpu_layers", [*range(8), None])
def test_every_number_of_layers_on_a_device_is_exact(
    asker: Engine, rpc_server: str, tmp_path: Path, n_gpu_layers: int | None
) -> None:
    path = write_model(tmp_path / "model.gguf", SMALL, mix="Q8_0")
    settings = replace(HOST, devices=(rpc_server,), n_gpu_layers=n_gpu_layers)
    found = predicted(asker, path, settings)
    assert found == loaded(path, settings)
    assert [pool.device for pool in found.devices] == [rpc_server]
    assert (found.devices[0].weights > 0) == (n_gpu_layers != 0)


@pytest.mark.parametrize("changes", [{"type_k": "q8_0", "type_v": "q8_0"}, {"offload_kqv": False}, {"repack": True}])
def test_settings_of_the_cache_are_exact_on_a_device(
    asker: Engine, rpc_server: str, models: Callable[..., Path], changes: dict[str, Any]
) -> None:
    settings = replace(HOST, devices=(rpc_server,), n_gpu_layers=3, **changes)
    path = models("gemma-3-1b")
    assert predicted(asker, path, settings) == loaded(path, settings)


@pytest.mark.parametrize("changes", [{}, {"n_gpu_layers": 6}, {"n_gpu_layers": 4, "n_ubatch": 16}], ids=str)
@pytest.mark.parametrize("tensor_split", [(1, 1), (1, 3), (3, 1), (1, 0)], ids=str)
def test_two_devices_share_layers_as_they_are_told(
    asker: Engine,
    rpc_server: str,
    other_rpc_server: str,
    tmp_path: Path,
    tensor_split: tuple[float, ...],
    changes: dict[str, Any],
) -> None:
    path = write_model(tmp_path / "model.gguf", SMALL, mix="Q8_0")
    settings = replace(HOST, devices=(rpc_server, other_rpc_server), tensor_split=tensor_split, **changes)
    found = predicted(asker, path, settings)
    assert found == loaded(path, settings)
    assert [pool.device for pool in found.devices] == [rpc_server, other_rpc_server]


@pytest.mark.parametrize("cpu_experts", [0, 1, 2, 99])
def test_experts_stay_on_the_host_in_so_many_layers(
    asker: Engine, rpc_server: str, models: Callable[..., Path], cpu_experts: int
) -> None:
    settings = replace(HOST, devices=(rpc_server,), cpu_experts=cpu_experts)
    path = models("qwen3-30b-a3b")
    found = predicted(asker, path, settings)
    assert found == loaded(path, settings)
    without = predicted(asker, path, replace(settings, cpu_experts=0))
    assert (found.host.weights > without.host.weights) == (cpu_experts > 0)


def test_a_mapped_load_has_the_same_buffers_and_the_files_pages(asker: Engine, models: Callable[..., Path]) -> None:
    """A mapping spans from the first tensor that stays to the last; all of them are one after the other here."""
    path = models("llama-3.2-1b")
    assert loaded(path, replace(HOST, load_mode="mmap")) == predicted(asker, path, HOST)


def test_a_mapped_load_that_repacks_has_both(asker: Engine, models: Callable[..., Path]) -> None:
    path = models("llama-3.2-1b")
    found = predicted(asker, path, replace(HOST, repack=True))
    real = loaded(path, replace(HOST, repack=True, load_mode="mmap"))
    assert real.host.repack == found.host.repack
    assert found.host.weights <= real.host.weights <= found.host.weights + found.host.repack


def test_a_header_without_its_tokenizer_gives_the_same_answer(asker: Engine, models: Callable[..., Path]) -> None:
    path = models("llama-3.2-1b")
    data = path.read_bytes()
    assert asker.dry_run(data, len(data), HOST) == predicted(asker, path, HOST)


def test_a_model_that_no_machine_here_could_hold_is_asked_for(asker: Engine) -> None:
    from scripts.architectures.shapes import MODELS

    header, size = ghost(MODELS["deepseek-v3"])
    found = asker.dry_run(header, size, HOST)
    assert 0 <= size - len(header) - found.host.weights < 1 << 20
    assert found.host.weights > 370 << 30


def test_a_worker_asked_many_things_stays_small(asker: Engine, models: Callable[..., Path]) -> None:
    from scripts.architectures.shapes import MODELS

    header, size = ghost(MODELS["llama-3.1-70b"])
    asker.dry_run(header, size, HOST)
    before = psutil.Process(asker.pid).memory_info().rss
    for n_ctx in range(256, 256 * 60, 256):
        assert asker.dry_run(header, size, replace(HOST, n_ctx=n_ctx)).n_ctx == n_ctx
    after = psutil.Process(asker.pid).memory_info().rss
    assert after < 100 << 20
    assert after - before < 4 << 20


def test_a_worker_answers_questions_before_and_after_a_load(models: Callable[..., Path], tiny_model: Path) -> None:
    path = models("llama-3.2-1b")
    with Engine() as engine:
        before = predicted(engine, path, HOST)
        engine.load(tiny_model, ONE_THREAD)
        assert engine.times
        assert engine.times.engine_import > 0
        answer = ask(engine, "hi", max_tokens=5)
        assert predicted(engine, path, HOST) == before
        assert ask(engine, "hi", max_tokens=5) == answer


@pytest.mark.parametrize("size", [0, 10])
def test_a_file_shorter_than_its_header_is_refused(asker: Engine, tiny_model: Path, size: int) -> None:
    with pytest.raises(GGUFError, match="cannot begin with a header"):
        asker.dry_run(tiny_model.read_bytes(), size, HOST)


def test_a_header_that_llama_cpp_refuses_is_a_gguf_error_and_the_worker_goes_on(
    asker: Engine, models: Callable[..., Path], tmp_path: Path
) -> None:
    strange = write_model(tmp_path / "a.gguf", metadata={"general.architecture": "strange"}).read_bytes()
    data = models("llama-3.2-1b").read_bytes()
    for header, size, words in (
        (b"GGUF", 4, "could not be loaded"),
        (b"", 0, "could not be loaded"),
        (strange, len(strange), "does not know"),
        (data[: len(data) // 2], len(data) // 2, "not within the file bounds"),
    ):
        with pytest.raises(GGUFError, match=words):
            asker.dry_run(header, size, HOST)
    assert asker.dry_run(data, len(data), HOST).host.weights > 0


def test_settings_that_would_abort_the_engine_are_the_users_error(asker: Engine, tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    with pytest.raises(UsageError, match="4 sequences need as many outputs"):
        asker.dry_run(data, len(data), replace(HOST, n_seq_max=4))
    with pytest.raises(UsageError, match="at most 16"):
        asker.dry_run(data, len(data), replace(HOST, tensor_split=(1.0,) * 17))


def test_a_header_that_kills_the_engine_is_told_with_its_last_words_and_a_new_one_answers() -> None:
    model = small("llama-3.2-1b")
    deadly, size = ghost(replace(model, hyperparameters={**model.hyperparameters, "block_count": 0}))
    with Engine() as engine:
        with pytest.raises(
            WorkerDiedError, match=r"SIGABRT\) while it asked llama\.cpp what the model would take"
        ) as died:
            engine.dry_run(deadly, size, HOST)
        assert "GGML_ASSERT" in died.value.log[-1]
        assert engine.has_ended
    harmless, size = ghost(model)
    with Engine() as engine:
        assert engine.dry_run(harmless, size, HOST).host.weights > 0


def test_what_a_dry_run_says_is_not_in_the_log_but_what_a_load_says_is(tiny_model: Path) -> None:
    """A log is whole when its engine is closed: its lines come from another thread."""
    asked: list[str] = []
    told: list[str] = []
    data = tiny_model.read_bytes()
    with Engine(asked.append) as engine:
        engine.dry_run(data, len(data), HOST)
    with Engine(told.append) as engine:
        engine.load(tiny_model, HOST)
    of_loader = ["llama_model_loader" in "".join(lines) for lines in (asked, told)]
    assert of_loader == [False, True]


@contextmanager
def interrupted(engine: Engine) -> Iterator[None]:
    """Hold the worker; Ctrl-C comes while its answer is waited for, and then it goes on and answers."""
    over, main = threading.Event(), threading.get_ident()

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name != "receive":
            frame = frame.f_back
        if frame is not None and not over.is_set():  # else it has not been asked yet, or was told already
            over.set()
            os.kill(engine.pid, signal.SIGCONT)
            raise KeyboardInterrupt

    def knock() -> None:
        while not over.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    os.kill(engine.pid, signal.SIGSTOP)
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be held there")
def test_a_question_that_is_broken_off_answers_no_other(tiny_model: Path, models: Callable[..., Path]) -> None:
    one, other = short_header(tiny_model), short_header(models("llama-3.2-1b"))
    assert len(one[0]) < 1 << 14  # who is held reads no more than a pipe holds
    with Engine() as engine:
        questions = Questions(engine.dry_run)
        engine.devices()
        with interrupted(engine):
            questions.memory(*one, HOST)
        assert engine.has_ended
        with pytest.raises(WorkerDiedError, match="did not wait"):
            questions.memory(*other, HOST)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be held there")
def test_a_load_that_is_broken_off_ends_the_engine(tiny_model: Path) -> None:
    with Engine() as engine:
        engine.devices()
        with interrupted(engine):
            engine.load(tiny_model, HOST)
        assert engine.has_ended
        with pytest.raises(WorkerDiedError, match="did not wait"):
            engine.devices()


def test_the_tiny_shapes_own_numbers(asker: Engine, tmp_path: Path) -> None:
    """By hand: 2 layers of 1024 cells, K and V of 2 heads of 64 numbers of 2 bytes; 512 tokens' logits."""
    path = write_model(tmp_path / "model.gguf", Shape())
    found = predicted(asker, path, HOST)
    assert found.kv_cache == found.host.kv_cache == 2 * 1024 * 2 * 2 * 64 * 2
    assert (found.state, found.output, found.n_ctx, found.n_ctx_seq) == (0, 512 * 4, 1024, 1024)
    assert (found.flash_attn, found.source, found.scaled, found.devices) == (True, "map", False, ())
