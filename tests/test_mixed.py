"""Mixed inference, really run: one model on the host and on devices, in every split of its layers.

The devices are CPUs lent by other processes, which is all llama.cpp needs for the real thing; the tests marked `gpu` do
the same on a card where the engine sees one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import pytest

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.layouts import read_layouts
from llmrun.engine.standby import Standby
from llmrun.footprints import Footprints, machine_of
from llmrun.gguf.source import read_model_header
from llmrun.hardware.resident import Resident, read_resident
from llmrun.memory.engine_memory import EngineMemory
from llmrun.memory.estimate import Machine
from llmrun.memory.footprint import Estimate, Footprint
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS, small
from scripts.architectures.write import write
from scripts.measuring.system import SLACK, fill_context
from tests.conftest import ONE_THREAD, chunks, request
from tests.lent import Lent, lender, linux_only

QUANTS = ("Q4_K_M", "Q8_0", "F16")
# one thread and no repacked weights: then the host's kernels are the same as the server's, and so is every number
BASE = replace(ONE_THREAD, repack=False, load_mode="none")
QUESTION = "what is a kv cache"
HOST_FREE = 8 << 30  # bytes; nothing here depends on it: every split is explicit
PAGE = 4096
Pool = tuple[int, int, int]  # bytes of weights, KV cache and compute


@dataclass(frozen=True)
class Run:
    """One load: what was planned for each pool, host first, what was allocated, and the answer, chunk by chunk."""

    planned: tuple[Pool, ...]
    calculated: tuple[Pool, ...]
    band: tuple[tuple[int, int], ...]
    allocated: tuple[Pool, ...]
    answer: tuple[str, int]


def run(path: Path, settings: RunSettings, n_tokens: int) -> Run:
    """Plan, load and answer in one worker, as the program does."""
    with Standby() as standby:
        footprint, estimate = plan(standby, path, settings)
        with standby.take() as engine:
            memory = engine.load(path, settings).memory
            said = chunks(engine, request(QUESTION, max_tokens=n_tokens))
    assert memory is not None
    assert said[-1].usage is not None
    answer = "".join(chunk.text for chunk in said), said[-1].usage.completion_tokens
    band = tuple((part.low, part.high) for part in estimate.compute)
    calculated = pools_of(estimate.footprint)
    return Run(pools_of(footprint), calculated, band, allocated_of(memory), answer)


def run_splits(
    path: Path, settings: RunSettings, splits: Sequence[int], servers: Sequence[Lent], n_tokens: int
) -> list[Run]:
    """Run each split; the servers take turns, side by side: a split's two processes wait for each other."""

    def share(first: int) -> list[Run]:
        base = replace(settings, devices=(servers[first].id,))
        mine = splits[first :: len(servers)]
        return [run(path, replace(base, n_gpu_layers=n_gpu_layers), n_tokens) for n_gpu_layers in mine]

    with ThreadPoolExecutor(len(servers)) as threads:
        shares = list(threads.map(share, range(len(servers))))
    return [shares[index % len(servers)][index // len(servers)] for index in range(len(splits))]


def plan(standby: Standby, path: Path, settings: RunSettings) -> tuple[Footprint, Estimate]:
    """What the engine says the model would take, and what the arithmetic says."""
    lent = standby.devices(name for name in settings.devices or () if name.startswith("rpc:"))
    machine = machine_of(lent, settings.devices, HOST_FREE, Machine(layouts=read_layouts()))
    footprints = Footprints(read_model_header(path), machine, standby)
    exact = footprints.exact(settings)
    assert exact is not None
    return exact, footprints.estimator.estimate(settings, footprints.machine)


def pools_of(footprint: Footprint) -> tuple[Pool, ...]:
    return tuple((pool.weights, pool.kv_cache, pool.compute) for pool in (footprint.host, *footprint.devices))


def allocated_of(memory: EngineMemory) -> tuple[Pool, ...]:
    host = (memory.host.weights, memory.host.kv_cache, memory.host.compute + memory.output)
    return (host, *((pool.weights, pool.kv_cache, pool.compute) for pool in memory.devices))


def check_memory(found: Run) -> None:
    """The engine's plan is what was allocated, to the byte; so is the arithmetic's, and compute in its band.

    A band without width is exact. The logits' buffer, known to the byte, comes on top of the host's.
    """
    assert found.planned == found.allocated
    assert [pool[:2] for pool in found.calculated] == [pool[:2] for pool in found.allocated]
    output = found.calculated[0][2] - found.band[0][1]
    above = (output, *[0] * (len(found.allocated) - 1))
    for pool, (low, high), extra in zip(found.allocated, found.band, above, strict=True):
        assert low + extra <= pool[2] <= high + extra


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[], Lent]]:
    """A function that starts a server, for this module."""
    with lender() as start:
        yield start


@pytest.fixture(scope="module")
def device(servers: Callable[[], Lent]) -> Lent:
    """A device of this module's own: nobody else holds it."""
    return servers()


@pytest.fixture(scope="module")
def pair(servers: Callable[[], Lent]) -> tuple[Lent, Lent]:
    """Two devices."""
    return servers(), servers()


def n_layer_of(path: Path) -> int:
    header = read_model_header(path)
    return header.uint(header.arch("block_count"))


# ---- every split of the embedded model, and of one of 0.6 billion weights


@pytest.mark.parametrize("quant", QUANTS)
def test_every_split_of_the_embedded_model_answers_alike_and_takes_what_was_planned(
    quant: str, pair: tuple[Lent, Lent]
) -> None:
    path = embedded_file(quant)
    splits = range(n_layer_of(path) + 2)
    alone = run(path, replace(BASE, devices=()), 24)
    runs = run_splits(path, BASE, splits, pair, 24)
    assert len(alone.answer[0]) > 20
    assert [found.answer for found in runs] == [alone.answer] * len(splits)
    for found in runs:
        check_memory(found)
    check_moves(runs)


def check_moves(runs: list[Run]) -> None:
    """With each layer more on the device, that has more weights and the host has less; the KV cache only moves."""
    host, device = ([found.allocated[pool] for found in runs] for pool in (0, 1))
    assert device[0] == (0, 0, 0)
    for i in range(1, len(runs)):
        assert device[i][0] > device[i - 1][0]
        assert host[i][0] < host[i - 1][0]
        assert host[i][1] + device[i][1] == host[0][1]
    assert host[-1][1] == 0


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that writes a model with the shape of Qwen3 0.6B and random weights, once for each quantization."""
    folder = tmp_path_factory.mktemp("mixed")

    def make(quant: str) -> Path:
        path = folder / f"qwen3-0.6b-{quant}.gguf"
        return path if path.exists() else write(path, MODELS["qwen3-0.6b"], quant)

    return make


# of 28 layers: nothing, the output alone, every third split, all; each takes three seconds (guide is split everywhere)
LARGE_SPLITS: dict[str, Sequence[int]] = {"Q4_K_M": (0, 1, *range(3, 28, 3), 28, 29), "Q8_0": (0, 1, 14, 29)}


@pytest.mark.slow
@pytest.mark.parametrize("quant", LARGE_SPLITS)
def test_splits_of_a_large_model_answer_alike_and_take_what_was_planned(
    quant: str, pair: tuple[Lent, Lent], large_model: Callable[[str], Path]
) -> None:
    runs = run_splits(large_model(quant), replace(BASE, n_ctx=256), LARGE_SPLITS[quant], pair, 6)
    assert {found.answer for found in runs} == {runs[0].answer}
    assert runs[0].answer[1] == 6
    for found in runs:
        check_memory(found)
    check_moves(runs)


@pytest.mark.parametrize("n_gpu_layers", [0, 3, 6])
def test_a_mapped_file_is_planned_to_the_page(n_gpu_layers: int, device: Lent) -> None:
    """The system maps whole pages, and the plan counts them; llama.cpp tells the bytes it uses of them."""
    settings = replace(BASE, load_mode="mmap", devices=(device.id,), n_gpu_layers=n_gpu_layers)
    found = run(embedded_file("Q4_K_M"), settings, 1)
    (planned, *planned_rest), (real, *real_rest) = found.planned, found.allocated
    assert (planned_rest, planned[1:]) == (real_rest, real[1:])
    assert 0 <= planned[0] - real[0] < 2 * PAGE


# ---- two devices, unequal


@pytest.fixture(scope="module")
def host_answer() -> tuple[str, int]:
    """What the embedded model says on the host alone."""
    return run(embedded_file("Q8_0"), replace(BASE, devices=()), 24).answer


@pytest.mark.parametrize("split", [(3, 2), (2, 3), (1, 4), (4, 1), (3, 3)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_devices_take_as_many_layers_as_they_are_told(
    split: tuple[int, int], order: tuple[int, int], pair: tuple[Lent, Lent], host_answer: tuple[str, int]
) -> None:
    """Parts of the split are numbers of layers, the output counted as one: 6 are all, 5 leave a layer on the host."""
    path = embedded_file("Q8_0")
    devices = tuple(pair[index].id for index in order)
    settings = replace(BASE, devices=devices, n_gpu_layers=sum(split), tensor_split=tuple(map(float, split)))
    found = run(path, settings, 24)
    check_memory(found)
    caches = [pool[1] for pool in found.allocated]
    n_host = n_layer_of(path) + 1 - sum(split)
    each = sum(caches) // n_layer_of(path)
    assert caches == [n_host * each, split[0] * each, (split[1] - 1) * each]  # the output has no cache
    assert found.answer == host_answer


# ---- experts on the host


@pytest.fixture(scope="module")
def experts_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture of experts."""
    return write(tmp_path_factory.mktemp("experts") / "moe.gguf", small("qwen3-30b-a3b"), "Q4_K_M")


def test_experts_on_the_host_change_no_answer_and_are_planned_to_the_byte(experts_model: Path, device: Lent) -> None:
    """Those of the first k layers, with all layers on the device and with all but the first."""
    n_layer = n_layer_of(experts_model)
    alone = run(experts_model, replace(BASE, devices=(), n_ctx=512), 12)
    on_host = []
    for n_gpu_layers, cpu_experts in product((n_layer + 1, n_layer), range(n_layer + 1)):
        settings = replace(BASE, n_ctx=512, devices=(device.id,), n_gpu_layers=n_gpu_layers, cpu_experts=cpu_experts)
        found = run(experts_model, settings, 12)
        check_memory(found)
        assert found.answer == alone.answer
        on_host.append(found.allocated[0][0])
    whole, less = on_host[: n_layer + 1], on_host[n_layer + 1 :]
    assert all(more > fewer for fewer, more in pairwise(whole))
    assert less[0] == less[1]  # the first layer's experts were on the host already
    assert all(more > fewer for fewer, more in zip(whole[1:-1], less[1:-1], strict=True))


# ---- the operating system's word


@dataclass(frozen=True)
class Above:
    """Resident bytes beyond the plan, negative where there are fewer: the worker's, and the server's beyond its own."""

    worker: int
    server: int


def above_plan(path: Path, settings: RunSettings, server: Lent) -> Above:
    """Plan, load, fill the context, and look at both processes."""
    before = total(read_resident(server.process.pid))
    with Standby() as standby:
        footprint, _ = plan(standby, path, settings)
        with standby.take() as engine:
            engine.load(path, settings)
            assert fill_context(engine) > 200
            worker, after = total(read_resident(engine.pid)), total(read_resident(server.process.pid))
    return Above(worker - footprint.host.total, after - before - footprint.devices[0].total)


def total(found: Resident | None) -> int:
    assert found is not None
    return found.total


def check_resident(found: Above) -> None:
    assert found.worker <= SLACK, found
    assert found.server <= SLACK, found


@linux_only
@pytest.mark.parametrize("load_mode", ["none", "mmap"])
@pytest.mark.parametrize(("quant", "n_gpu_layers"), [("Q4_K_M", 3), ("Q8_0", 6), ("F16", 1), ("F16", 6)])
def test_neither_process_of_a_split_model_takes_more_than_planned(
    quant: str, n_gpu_layers: int, load_mode: str, servers: Callable[[], Lent]
) -> None:
    """Resident memory, its own and pages of files, with the whole context read, is at most the plan and 16 MiB."""
    server = servers()
    settings = replace(BASE, load_mode=load_mode, devices=(server.id,), n_gpu_layers=n_gpu_layers)
    check_resident(above_plan(embedded_file(quant), settings, server))


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize(("n_gpu_layers", "load_mode"), [(14, "mmap"), (29, "none")])
def test_neither_process_of_a_large_split_model_takes_more_than_planned(
    n_gpu_layers: int, load_mode: str, servers: Callable[[], Lent], large_model: Callable[[str], Path]
) -> None:
    server = servers()
    settings = replace(BASE, load_mode=load_mode, n_ctx=256, devices=(server.id,), n_gpu_layers=n_gpu_layers)
    check_resident(above_plan(large_model("Q4_K_M"), settings, server))


# ---- the same on a card


@pytest.fixture(scope="module")
def card() -> str:
    """The first device of the engine that is a GPU of this machine; without one the test is skipped."""
    with Engine() as engine:
        found = engine.look()
    cards = [info.id for info in found.devices if info.kind in ("GPU", "IGPU") and info.backend != "RPC"]
    if not cards:
        pytest.skip(
            f"the engine sees no GPU: it was built for {', '.join(found.engine.backends if found.engine else ())}"
        )
    return cards[0]


@pytest.mark.gpu
@pytest.mark.parametrize("quant", QUANTS)
def test_every_split_on_a_card_answers_alike_and_takes_what_was_planned(quant: str, card: str) -> None:
    """A card rounds otherwise than a CPU: the words that the model was taught stay the same, and memory to the byte."""
    path = embedded_file(quant)
    go = partial(run, path, n_tokens=24)
    alone = go(settings=replace(BASE, devices=()))
    for n_gpu_layers in range(n_layer_of(path) + 2):
        found = go(settings=replace(BASE, devices=(card,), n_gpu_layers=n_gpu_layers))
        assert found.answer == alone.answer
        assert found.planned == found.allocated


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("quant", LARGE_SPLITS)
def test_splits_of_a_large_model_on_a_card_take_what_was_planned(
    quant: str, card: str, large_model: Callable[[str], Path]
) -> None:
    """Random weights make near ties that a card may decide otherwise: only memory is held to the plan."""
    for n_gpu_layers in LARGE_SPLITS[quant]:
        settings = replace(BASE, n_ctx=256, devices=(card,), n_gpu_layers=n_gpu_layers)
        found = run(large_model(quant), settings, 1)
        assert found.planned == found.allocated
