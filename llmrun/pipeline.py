"""The whole way from what was typed to a model that answers; the only module that knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.errors import EngineError, GGUFError, NotFoundError
from llmrun.folders import answers_folder
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.purpose import check_writes_text
from llmrun.gguf.source import check_file, read_model_header
from llmrun.gguf.summary import ModelSummary, summarize
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory, read_host_memory
from llmrun.hardware.threads import Threads, choose_threads, usual_threads
from llmrun.memory.context import context_shape
from llmrun.memory.footprint import Footprint
from llmrun.planning.forecast import Forecast, Source, context_table
from llmrun.planning.pools import Pool, Reserve, host_reserve, make_pools
from llmrun.reference import GuideRef, ModelRef
from llmrun.settings import Constraints, RunSettings, settings_for

if TYPE_CHECKING:
    from llmrun.footprints import Footprints


def locate(ref: ModelRef) -> Path:
    """Return the file of a reference; raises NotFoundError or GGUFError if it cannot be a model."""
    path = embedded_file(ref.quant) if isinstance(ref, GuideRef) else _expand(ref.path)
    check_file(path)
    return path


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise NotFoundError(f"there is no home directory for {path}", "give the whole path") from error


def inspect(ref: ModelRef) -> tuple[Path, ModelSummary]:
    """Return where a model's file is and what it says; raises NotFoundError or GGUFError."""
    path = locate(ref)
    return path, summarize(read_model_header(path))


def _read_writing_model(path: Path) -> GGUFHeader:
    header = read_model_header(path)
    try:
        check_writes_text(header)
    except GGUFError as error:
        raise GGUFError(f"{path} cannot chat: {error.message}", error.hint) from error
    return header


def forecast(ref: ModelRef, constraints: Constraints, source: Source | None = None) -> tuple[ModelSummary, Forecast]:
    """Return what running a model would take of this machine's memory, before anything of it is loaded.

    source: whom to ask; None takes the engine's word where it can be had. Raises NotFoundError, GGUFError (of it
    UnknownArchitectureError for the arithmetic) or EngineError.
    """
    header = _read_writing_model(locate(ref))
    settings = _settings(constraints, usual_threads(), header.uint(header.arch("context_length")))
    memory = read_host_memory()
    with open_footprints(header, settings.devices, memory, answers_folder()) as footprints:
        return summarize(header), forecast_with(footprints, header, settings, memory, source)


def _settings(constraints: Constraints, threads: Threads, n_ctx_train: int | None = None) -> RunSettings:
    settings = settings_for(constraints, threads.decode, n_ctx_train)
    return settings if constraints.n_threads else replace(settings, n_threads_batch=threads.batch)


@contextlib.contextmanager
def open_footprints(
    header: GGUFHeader, devices: Sequence[str] | None, memory: HostMemory, answers: Path | None = None
) -> Iterator[Footprints]:
    """Start an engine to ask about a model, and find the devices; without an engine there is the arithmetic alone.

    Raises UsageError or EngineError for a device that was named and is not there.
    """
    from llmrun.footprints import Footprints  # here, because who only chats need not wait for it
    from llmrun.hardware.cpu import read_repack_rows
    from llmrun.memory.estimate import Machine

    bare = Machine(repack_rows=read_repack_rows(), host_free=memory.available)
    try:
        engine = Engine()
    except EngineError as error:
        with Footprints(header, bare, None, answers) as footprints:
            footprints.trouble = error
            yield footprints
        return
    with Footprints(header, bare, engine, answers) as footprints:
        try:
            footprints.look_around(devices, memory.available)
        except EngineError as error:
            if devices:  # they were named: without them this is another question
                raise
            footprints.trouble = error
        yield footprints


def forecast_with(
    footprints: Footprints,
    header: GGUFHeader,
    settings: RunSettings,
    memory: HostMemory,
    source: Source | None = None,
) -> Forecast:
    """Return what a model would take of a host with this memory and of the devices its footprints were asked for."""
    n_ctx_train = header.uint(header.arch("context_length"))
    footprint, asked = _ask(footprints, settings, source)
    trouble = footprints.trouble
    arithmetic = footprints.arithmetic(settings)
    devices = footprints.machine.devices
    reserve = Reserve(host_reserve(memory.machine_total or memory.total, memory.limit, memory.outside))

    def pools_of(taken: Footprint) -> tuple[Pool, ...]:
        return make_pools(taken, memory.total, memory.available, devices, reserve)

    def answer(changed: RunSettings) -> tuple[Footprint, Source] | None:
        found = footprints.best(changed) if asked == "engine" else footprints.calculated(changed)
        return None if found is None else (found.footprint, found.source)

    return Forecast(
        settings=settings,
        pools=pools_of(footprint),
        source=asked,
        arithmetic=None if arithmetic is None else arithmetic.total,
        engine_trouble=None if trouble is None else trouble.message,
        n_ctx=context_shape(settings, n_ctx_train).n_ctx,
        n_layer=header.uint(header.arch("block_count")),
        n_ctx_train=n_ctx_train,
        contexts=context_table(settings, n_ctx_train, pools_of, answer),
    )


def _ask(footprints: Footprints, settings: RunSettings, source: Source | None) -> tuple[Footprint, Source]:
    if source != "arithmetic":
        exact = footprints.exact(settings)
        if exact is not None:
            return exact, "engine"
        if source == "engine" and footprints.trouble is not None:
            raise footprints.trouble
    return footprints.estimator.estimate(settings, footprints.machine).footprint, "arithmetic"


def free_memory() -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return the bytes available on the host, and those free on each device with memory of its own."""
    from llmrun.footprints import machine_of
    from llmrun.memory.estimate import Machine

    available = read_host_memory().available
    devices: tuple[Device, ...] = ()
    with contextlib.suppress(EngineError), Engine() as engine:  # without an engine there is no device to be had
        devices = machine_of(engine.devices(), None, available, Machine()).devices
    own = (device for device in devices if not device.unified and device.free is not None)
    cards = {(device.name, device.total): (device.id, device.free or 0) for device in own}  # one card, two backends
    return available, tuple(cards.values())


def start(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    *,
    on_log: Callable[[str], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Engine:
    """Load a model and return the engine that answers with it; the caller closes it.

    Raises NotFoundError, GGUFError, InsufficientMemoryError or EngineError, with no process left behind.
    """
    path = locate(ref)
    engine = Engine(on_log)
    try:
        _read_writing_model(path)  # while the worker imports llama.cpp, so that it costs nothing
        # looking how busy the machine is takes its time while the worker is busy importing, which is work of ours
        threads = usual_threads() if constraints.n_threads else choose_threads((engine.pid,))
        engine.load(path, _settings(constraints, threads), on_progress)
    except BaseException:
        engine.close()
        raise
    return engine
