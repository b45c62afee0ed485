"""One model's footprints, asked of whoever knows best: the engine, which is exact, or our arithmetic, which is at hand.

Owns the worker that answers; knows nothing of what is chosen from the answers, or how they are shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceInfo
from llmrun.engine.questions import Questions
from llmrun.errors import EngineError, LLMRunError, UnknownArchitectureError, UsageError
from llmrun.gguf.encode import encode_header, without_tokenizer
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.cpu import read_repack_rows
from llmrun.hardware.device import Device
from llmrun.memory.asked import footprint_of
from llmrun.memory.engine_memory import EngineMemory
from llmrun.memory.estimate import Estimator, Machine, maps_file, vocabulary_counts
from llmrun.memory.footprint import Footprint
from llmrun.memory.overhead import device_overhead, host_overhead
from llmrun.settings import RunSettings


class Footprints:
    """Answers what a model takes with given settings. Use as a context manager: it may hold a worker.

    machine: what was found; its devices are those named, or all. trouble: why the engine is not asked, None while it
    can be.
    """

    def __init__(
        self, header: GGUFHeader, devices: Sequence[str] | None = None, *, answers: Path | None = None
    ) -> None:
        """Start a worker and look at the devices; raises UsageError or EngineError for one that is not there.

        answers: a folder to keep the engine's answers in, None is none.
        """
        self._header = header
        asked = without_tokenizer(header)
        self._asked, self._asked_size = encode_header(asked), asked.file_size
        self._engine: Engine | None = None
        self._questions = Questions(self._ask_engine, answers)
        self.trouble: EngineError | None = None
        self.machine = Machine(repack_rows=read_repack_rows())
        try:
            self._estimator: Estimator | None = Estimator(header)
        except UnknownArchitectureError as error:
            self._estimator, self.unknown = None, error
        self._start(devices)

    def __enter__(self) -> Footprints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()

    def _start(self, devices: Sequence[str] | None) -> None:
        self._engine = Engine()
        try:
            found = self._engine.devices(name for name in devices or () if name.startswith("rpc:"))
        except EngineError as error:
            self._give_up(error)
            if devices:  # the user named them: without them this is another question
                raise
            return
        by_id = {info.id: _device(info) for info in found if info.kind in ("GPU", "IGPU")}
        if devices is not None and (missing := [name for name in devices if name not in by_id]):
            self._engine.close()
            names = ", ".join(by_id) or "none"
            raise UsageError(f"there is no device {missing[0]}: the engine sees {names}", "--device none is the CPU")
        chosen = _default(tuple(by_id.values())) if devices is None else tuple(by_id[name] for name in devices)
        self.machine = Machine(chosen, self.machine.repack_rows)

    def _give_up(self, error: EngineError) -> None:
        self.trouble = error
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def estimator(self) -> Estimator:
        """The arithmetic; raises UnknownArchitectureError where it does not know the architecture."""
        if self._estimator is None:
            raise self.unknown
        return self._estimator

    def exact(self, settings: RunSettings) -> Footprint | None:
        """Return what the engine says; None where it cannot be asked (`trouble` says why).

        Raises what the engine refuses these settings or this model with.
        """
        if self._engine is None:
            return None
        here = replace(settings, devices=tuple(device.id for device in self.machine.devices))
        try:
            memory = self._questions.memory(self._asked, self._asked_size, here)
        except EngineError as error:
            if not self._engine.has_ended:
                raise
            self._give_up(error)
            return None
        return footprint_of(
            memory,
            host_overhead(
                *vocabulary_counts(self._header),
                memory.n_ctx,
                max(settings.n_threads, settings.n_threads_batch),
                len(self._header.tensors),
            ),
            tuple(device_overhead(device.backend) for device in self.machine.devices),
            maps=maps_file(settings),
            span=self._span(settings),
        )

    def arithmetic(self, settings: RunSettings) -> Footprint | None:
        """Return what our formulas say; None where they do not know the architecture."""
        if self._estimator is None:
            return None
        return self._estimator.estimate(settings, self.machine).footprint

    def best(self, settings: RunSettings) -> Footprint | None:
        """Return the best answer there is; None for settings the engine refuses, or where nobody knows."""
        with contextlib.suppress(LLMRunError):
            return self.exact(settings) or self.arithmetic(settings)
        return None

    def _ask_engine(self, header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        assert self._engine is not None
        return self._engine.dry_run(header, size, settings)

    def _span(self, settings: RunSettings) -> int | None:
        return None if self._estimator is None else self._estimator.weights(settings, self.machine).mapped


def _default(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Return the devices llama.cpp takes unasked: an integrated one only where there is no other (src/llama.cpp)."""
    return tuple(device for device in devices if not device.unified) or devices


def _device(info: DeviceInfo) -> Device:
    return Device(info.id, info.backend, info.description, info.total, info.free, unified=info.kind == "IGPU")
