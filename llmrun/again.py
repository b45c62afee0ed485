"""A model that was run before, started again: its remembered plan checked and loaded, without planning anew.

Light to import beside what plans: who starts again waits for none of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, InsufficientMemoryError, LLMRunError, WorkerDiedError
from llmrun.gguf.splits import split_names
from llmrun.hardware.threads import Threads
from llmrun.memory.placement import place_layers
from llmrun.planning.plan import PlanWish
from llmrun.planning.work import ModelWork
from llmrun.reference import GUIDE_QUANTS, GuideRef, LocalRef, ModelRef
from llmrun.remembered import Occasion, Recalled, recall, remember, seen_devices
from llmrun.settings import Constraints
from llmrun.site import list_devices, taken_by
from llmrun.speeds import Speeds, open_speeds

if TYPE_CHECKING:
    from llmrun.engine.protocol import Usage
    from llmrun.settling import Settled

_PART_HEADER = 1 << 16  # bytes looked at of a part of a model, whose own header is not known


@dataclass(frozen=True, slots=True)
class Again:
    """Somebody's wish to run a model, whose plan may be known."""

    occasion: Occasion

    def recalled(self, standby: Standby) -> Recalled | None:
        """Return the plan that planning now would give, predicted anew; None where it has to be planned."""
        try:
            found = list_devices(standby, self.occasion.constraints.devices or ())
        except LLMRunError:  # whoever plans says what is wrong
            return None
        recalled = recall(self.occasion, found, ours=taken_by(standby))
        if recalled is None or recalled.work is None:
            return recalled
        work = _shared(recalled.work)
        speed = _speeds(recalled).predict(work, recalled.plan.settings, place_layers(recalled.n_layer, 0, ()), ())
        return replace(recalled, work=work, plan=replace(recalled.plan, speed=speed))

    def keep(self, settled: Settled, standby: Standby) -> None:
        """Remember a plan that was made, where nothing but what is free can make it another one."""
        plan, chosen = settled.plan, settled.chosen
        lasting = settled.planner.lasting(plan)
        try:
            found = list_devices(standby, self.occasion.constraints.devices or ())
        except EngineError:
            return
        if lasting is None or not all(file.origin in self.occasion.paths for file in chosen.variant.files):
            return
        made = Recalled(
            plan,
            chosen.summary,
            chosen.variant,
            chosen.work,
            plan.forecast.n_layer,
            settled.site,
            seen_devices(found),
        )
        paths = [file.origin for file in chosen.variant.files if isinstance(file.origin, Path)]
        n_header = chosen.header.data_offset if len(paths) == 1 else _PART_HEADER
        headers = dict.fromkeys(self.occasion.paths, _PART_HEADER) | dict.fromkeys(paths, n_header)
        remember(self.occasion, made, lasting, headers)


def again(ref: ModelRef, constraints: Constraints, wish: PlanWish, threads: Threads) -> Again | None:
    """Return the wish to run a model by a plan that may be known; None where none is ever kept.

    That is where other files than the model's are run with it, where devices are wished for that others lend, and where
    the model is not here, or another program's.
    """
    others = constraints.loras or constraints.projector is not None or constraints.draft is not None
    others = others or any(name.startswith("rpc:") for name in constraints.devices or ())
    if others or wish.source is not None:
        return None
    try:
        paths = files_here(ref)
    except LLMRunError:
        return None
    return Again(Occasion(paths, constraints, wish, threads)) if paths else None


def files_here(ref: ModelRef) -> tuple[Path, ...]:
    """Return all files that a reference may mean, if they are here and no other program's, without opening one.

    Raises as whoever looks for them.
    """
    if isinstance(ref, GuideRef):
        return tuple(embedded_file(quant) for quant in ((ref.quant,) if ref.quant else GUIDE_QUANTS))
    if isinstance(ref, LocalRef):
        path = ref.path.expanduser() if str(ref.path).startswith("~") else ref.path
        if not path.is_file():
            return ()
        names = split_names(path.name)
        return (path,) if names is None else tuple(path.with_name(name) for name in names)
    from llmrun.models import cached_files_of  # here: a file that is named is found without the Hub's cache

    return cached_files_of(ref)


def load_again(
    recalled: Recalled,
    standby: Standby,
    on_progress: Callable[[float], None] | None = None,
    most_threads: tuple[int, int] | None = None,
) -> Engine | None:
    """Load a remembered plan; None where that failed, as when it is planned anew it may step down.

    most_threads: see engine.protocol.Load.
    """
    engine = standby.take()
    try:
        engine.load(recalled.variant.path, recalled.plan.settings, on_progress, most_threads=most_threads)
    except (InsufficientMemoryError, WorkerDiedError):
        engine.close()
        standby.start_anew()
        return None
    except BaseException:
        engine.close()
        raise
    return engine


def recorder(recalled: Recalled) -> Callable[[Usage], None]:
    """Return what remembers how fast an answer was beside what was predicted for it."""

    def record(usage: Usage) -> None:
        if recalled.work is not None:
            placement = place_layers(recalled.n_layer, 0, ())
            _speeds(recalled).record(recalled.work, recalled.plan.settings, placement, (), usage)

    return record


def _speeds(recalled: Recalled) -> Speeds:
    return open_speeds(recalled.site.threads.decode)


def _shared(work: ModelWork) -> ModelWork:
    """Return the same with layers that are alike as one object, as ModelWork has them."""
    known = {layer: layer for layer in work.layers}
    return replace(work, layers=tuple(known[layer] for layer in work.layers))
