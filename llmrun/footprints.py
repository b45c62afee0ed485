"""One model's footprints, asked of whoever knows best: the engine, which is exact, or our arithmetic, which is at hand.

Knows nothing of what is chosen from the answers, or how they are shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmrun.engine.protocol import DeviceInfo
from llmrun.engine.questions import Questions
from llmrun.engine.standby import Standby
from llmrun.errors import (
    EngineError,
    LLMRunError,
    QuestionTooLargeError,
    UnknownArchitectureError,
)
from llmrun.gguf.adapter import Adapter
from llmrun.gguf.encode import encode_header, without_arrays, without_tokenizer
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.reported import devices_of
from llmrun.memory.asked import footprint_of
from llmrun.memory.attention import n_layer_of
from llmrun.memory.context import context_shape
from llmrun.memory.draft import beside, difference, together
from llmrun.memory.engine_memory import EngineMemory
from llmrun.memory.estimate import Estimator, Machine, maps_file, vocabulary_counts
from llmrun.memory.footprint import Footprint
from llmrun.memory.mtp import hidden_bytes, with_layers
from llmrun.memory.overhead import device_overhead, host_overhead
from llmrun.memory.projector import device_of_projector, with_projector
from llmrun.planning.drafts import draft_settings
from llmrun.projectors import Sight
from llmrun.settings import MTP, RunSettings

_LOGIT = 4  # bytes: a float for each token of the vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """A footprint, and who told it."""

    footprint: Footprint
    source: Literal["engine", "arithmetic"]


class Footprints:
    """Answers what a model takes with given settings.

    trouble: why the engine did not answer last, None while it does. adapter_bytes: of the adapters it is run with.
    """

    def __init__(
        self,
        header: GGUFHeader,
        machine: Machine = Machine(),
        standby: Standby | None = None,
        answers: Path | None = None,
        adapters: Sequence[Adapter] = (),
        sight: Sight | None = None,
        draft: Footprints | None = None,
    ) -> None:
        """standby: whom to ask, who is not closed here. answers: a folder to keep the answers in; None is none.

        adapters, sight, draft: what the model is run with, whatever the settings say; of the draft its own footprints.
        """
        self.machine = machine
        self.trouble: EngineError | None = standby.trouble if standby else None
        self._header = header
        asked = without_tokenizer(header)
        self._asked, self._asked_size = encode_header(asked), asked.file_size
        self._standby = standby
        self._sight, self._draft = sight, draft
        self._calculated: dict[RunSettings, Footprint | None] = {}  # of a draft, for many settings of its model
        self._adapters = tuple(encode_header(without_arrays(adapter.header)) for adapter in adapters)
        self.adapter_bytes = sum(adapter.size for adapter in adapters)
        self._n_tensors = len(header.tensors) + sum(len(adapter.header.tensors) for adapter in adapters)
        self._questions = Questions(self._ask_engine, answers, self._adapters)
        self._unknown: UnknownArchitectureError | None = None
        try:
            self._estimator: Estimator | None = Estimator(header, adapters)
        except UnknownArchitectureError as error:
            self._estimator, self._unknown = None, error

    def default_devices(self) -> tuple[str, ...]:
        """Return what llama.cpp takes unasked: it knows which backends share one card, and when to use a small one."""
        memory = self._ask_engine(self._asked, self._asked_size, RunSettings(n_ctx=256))
        return tuple(sizes.device for sizes in memory.devices if sizes.device is not None)

    @property
    def least_batch(self) -> int:
        """Tokens that have to be read at once, as those of an image; 0 is any number."""
        return 0 if self._sight is None else self._sight.projector.n_batch

    @property
    def n_draft_bytes(self) -> int:
        """Bytes of the model's own layers for drafting in its file."""
        n_all, n_layer = n_layer_of(self._header)
        names = tuple(f"blk.{index}." for index in range(n_layer, n_all))
        return sum(tensor.size for tensor in self._header.tensors if tensor.name.startswith(names))

    @property
    def has_state(self) -> bool:
        """Whether the model is known to remember a state, and not only what each token left in a KV cache."""
        return self._estimator is not None and any(layer.state for layer in self._estimator.shape.layers)

    @property
    def estimator(self) -> Estimator:
        """The arithmetic; raises UnknownArchitectureError where it does not know the architecture."""
        if self._estimator is None:
            assert self._unknown is not None
            raise self._unknown
        return self._estimator

    def _machine_for(self, settings: RunSettings) -> Machine:
        """Return the machine with the devices of the settings, None being all."""
        if settings.devices is None:
            return self.machine
        by_id = {device.id: device for device in self.machine.devices}
        return replace(self.machine, devices=tuple(by_id[name] for name in settings.devices))

    def exact(self, settings: RunSettings) -> Footprint | None:
        """Return what the engine says; None where it cannot be asked (`trouble` says why).

        Raises what the engine refuses these settings or this model with.
        """
        machine = self._machine_for(settings)
        here = replace(settings, devices=tuple(device.id for device in machine.devices))
        try:
            memory = self._questions.memory(self._asked, self._asked_size, replace(here, draft=None))
            if settings.draft == MTP:
                own = self._questions.memory(self._asked, self._asked_size, draft_settings(here))
                memory = with_layers(memory, own)
        except QuestionTooLargeError as error:
            self.trouble = error
            return None
        except EngineError as error:
            if self._standby is not None and self._standby.has_answered(error):
                raise
            self.trouble = error
            return None
        self.trouble = None
        n_tokens, n_merges = vocabulary_counts(self._header)
        footprint = footprint_of(
            memory,
            host_overhead(
                n_tokens,
                n_merges,
                memory.n_ctx,
                max(settings.n_threads, settings.n_threads_batch),
                self._n_tensors,
            ),
            tuple(device_overhead(device.backend) for device in machine.devices),
            maps=maps_file(settings, machine.devices),
            span=self._span(settings, machine),
            more_output=max(0, settings.n_outputs_max - settings.n_seq_max) * n_tokens * _LOGIT,
        )
        seeing = self._with_projector(_with_compute(footprint, self._hidden(settings)), settings)
        if self._draft is None:
            return seeing
        draft = self._draft.exact(draft_settings(here))
        self.trouble = self._draft.trouble
        return None if draft is None else together(seeing, beside(draft, len(machine.devices)))

    def arithmetic(self, settings: RunSettings) -> Footprint | None:
        """Return what our formulas say; None where they do not know the architecture."""
        if self._estimator is None:
            return None
        machine = self._machine_for(settings)
        try:
            found = self._with_projector(self._estimator.estimate(settings, machine).footprint, settings)
            if settings.draft == MTP:
                layers = self._estimator.draft_layers(draft_settings(settings), machine)
                found = _with_compute(together(found, layers), self._hidden(settings))
        except UnknownArchitectureError:
            return None
        if self._draft is None:
            return found
        here = replace(settings, devices=tuple(device.id for device in machine.devices))
        draft = self._draft.calculated_once(draft_settings(here))
        return None if draft is None else together(found, beside(draft, len(machine.devices)))

    def calculated_once(self, settings: RunSettings) -> Footprint | None:
        """Return what `arithmetic` does, of settings that were asked about before without doing it again."""
        if settings not in self._calculated:
            self._calculated[settings] = self.arithmetic(settings)
        return self._calculated[settings]

    def _hidden(self, settings: RunSettings) -> int:
        """Return the bytes on the host that hidden states take, which the model's own layers guess with."""
        if settings.draft != MTP:
            return 0
        header = self._header
        n_embd, n_ctx_train = (header.uint(header.arch(key)) for key in ("embedding_length", "context_length"))
        return hidden_bytes(n_embd, context_shape(settings, n_ctx_train))

    def of_draft(self, settings: RunSettings, source: Literal["engine", "arithmetic"]) -> Footprint | None:
        """Return what of the model's footprint its draft takes, by who told that; None where there is no draft."""
        if settings.draft == MTP:
            ask = self.exact if source == "engine" else self.arithmetic
            found, without = ask(settings), ask(replace(settings, draft=None))
            return None if found is None or without is None else difference(found, without)
        if self._draft is None:
            return None
        own = draft_settings(settings)
        found = self._draft.exact(own) if source == "engine" else self._draft.calculated_once(own)
        return None if found is None else beside(found, len(settings.devices or ()))

    def _with_projector(self, footprint: Footprint, settings: RunSettings) -> Footprint:
        """Return a footprint with what the projector takes, which is on the device that it is loaded to."""
        if self._sight is None:
            return footprint
        names = [device.id for device in self._machine_for(settings).devices]
        place = device_of_projector(names, settings.n_gpu_layers)
        memory = self._sight.memory(None if place is None else names[place])
        return with_projector(footprint, self._sight.projector.size, memory, place)

    def best(self, settings: RunSettings) -> Answer | None:
        """Return the best answer there is; None for settings the engine refuses, or where nobody knows."""
        with contextlib.suppress(LLMRunError):
            exact = self.exact(settings)
            return self.calculated(settings) if exact is None else Answer(exact, "engine")
        return None

    def settled(self, settings: RunSettings) -> Answer | None:
        """Return the best answer as `best` does, and None too for settings that were the death of who was asked."""
        before = 0 if self._standby is None else self._standby.n_deaths
        answer = self.best(settings)
        return None if self._standby is not None and self._standby.n_deaths > before else answer

    def calculated(self, settings: RunSettings) -> Answer | None:
        """Return the arithmetic's answer; None where it does not know the architecture."""
        found = self.arithmetic(settings)
        return None if found is None else Answer(found, "arithmetic")

    def _ask_engine(self, header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        if self._standby is None:
            raise EngineError("the engine was not started")
        return self._standby.dry_run(header, size, settings, self._adapters)

    def _span(self, settings: RunSettings, machine: Machine) -> int | None:
        return None if self._estimator is None else self._estimator.weights(settings, machine).mapped


def _with_compute(footprint: Footprint, size: int) -> Footprint:
    host = footprint.host
    return Footprint(replace(host, compute=host.compute + size), footprint.devices)


def machine_of(found: Sequence[DeviceInfo], wished: Sequence[str] | None, host_free: int, bare: Machine) -> Machine:
    """Return the machine with the devices that were wished for, as `devices_of` does.

    bare: the machine without devices.
    """
    return replace(bare, devices=devices_of(found, wished), host_free=host_free)
