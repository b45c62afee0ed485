"""`llmrun tune`: settings timed on the model itself, in turns beside the defaults, and what pays remembered.

Knows the way from a plan to what is remembered; must not know how a way is timed, or what wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrun import pipeline
from llmrun.engine.client import Engine
from llmrun.errors import InsufficientMemoryError, UnknownArchitectureError, UsageError
from llmrun.folders import speed_folder
from llmrun.footprints import Footprints
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_model_header
from llmrun.hardware.affinity import read_affinities
from llmrun.hardware.fingerprint import read_fingerprint
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.weights import may_repack
from llmrun.pipeline import Listener, Planned
from llmrun.planning.plan import PlanWish
from llmrun.planning.room import make_room
from llmrun.planning.timing import Way
from llmrun.planning.trials import Found, Round, findings, rounds, taken, tuned
from llmrun.planning.tuning import Tuning
from llmrun.planning.work import ModelWork, model_work
from llmrun.reference import ModelRef
from llmrun.settings import Constraints, RunSettings
from llmrun.speeds import open_speeds
from llmrun.tunings import Tunings

DEFAULT_BUDGET = 45.0  # seconds of timing; with planning, loading and the last turns it stays within a minute

# What is expected of a host that nobody knows anything of: seconds to read and to write a token
_UNKNOWN = (0.02, 0.1)

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found out. before, after: the settings of the plan without and with it; seconds: of all of it.

    skipped: rounds that were left out, each with why. found: what was asked of each setting, in order.
    """

    planned: Planned
    found: tuple[Found, ...]
    skipped: tuple[tuple[str, str], ...]
    before: RunSettings
    after: RunSettings
    seconds: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is here, what it does for a token, and what is remembered of this machine.

    affinities: those that threads can have on it.
    """

    planned: Planned
    header: GGUFHeader
    work: ModelWork
    footprints: Footprints
    tunings: Tunings
    affinities: tuple[str, ...] = ()


def open_subject(ref: ModelRef, constraints: Constraints, listener: Listener, *, offline: bool = False) -> Subject:
    """Return a model as it would be run if nothing had been tuned.

    Raises what planning raises, and UsageError for a model that has to be fetched first.
    """
    planned = pipeline.plan(ref, constraints, PlanWish(tuned=False), None, listener, offline=offline)
    variant = planned.variant
    if not variant.is_here:
        raise UsageError(f"{variant.files[0].name} is not on this machine yet", "`llmrun pull MODEL` fetches it")
    header = read_model_header(variant.path)
    try:
        work = model_work(header)
    except UnknownArchitectureError as error:
        raise UsageError(f"nothing is known of how a model of {header.architecture!r} computes") from error
    tunings = Tunings(read_fingerprint(), speed_folder())
    return Subject(planned, header, work, Footprints(header, planned.site.machine), tunings, read_affinities())


def tune(
    subject: Subject,
    constraints: Constraints,
    budget: float,
    on_progress: OnProgress,
    start: Callable[[], Engine] = Engine,
) -> Outcome:
    """Time what may pay, and remember what does; about `budget` seconds. on_progress gets a round's name, and 0 to 1.

    start: makes the engine that times.

    Nothing is remembered where it is broken off. Raises what loading the model raises, OSError where what was found
    cannot be written.
    """
    started = time.perf_counter()
    with start() as engine:
        tuner = _Tuner(subject, engine, budget, on_progress)
        tuner.run(constraints)
        _measure_anew(subject, engine, tuner.settings)
    on_devices = bool(tuner.settings.n_gpu_layers)
    devices = [device.id for device in subject.planned.site.devices] if on_devices else []
    subject.tunings.keep(subject.work, devices, Tuning(tuned(tuner.found), on_devices))
    before, seconds = subject.planned.plan.settings, time.perf_counter() - started
    return Outcome(subject.planned, tuple(tuner.found), tuple(tuner.skipped), before, tuner.settings, seconds)


def _measure_anew(subject: Subject, engine: Engine, settings: RunSettings) -> None:
    """Measure what computing costs with settings that won, where it was known of the defaults: it holds for one way."""
    before = subject.planned.plan.settings
    speeds = open_speeds(before.n_threads, engine.measure)
    if settings != before and subject.planned.plan.measured:
        speeds.measure(subject.work, settings)


class _Tuner:
    """Takes round after round, each with what won in those before."""

    def __init__(self, subject: Subject, engine: Engine, budget: float, on_progress: OnProgress) -> None:
        self._subject, self._engine, self._tell = subject, engine, on_progress
        self._until = time.perf_counter() + budget
        self._budget = budget
        speed = subject.planned.plan.speed
        self._read, self._write = _UNKNOWN if speed is None else (1 / speed.prefill, 1 / speed.decode)
        self.settings = subject.planned.plan.settings
        self.found: list[Found] = []
        self.skipped: list[tuple[str, str]] = []

    def run(self, constraints: Constraints) -> None:
        site = self._subject.planned.site
        types = {product.type for product in self._subject.work.products()}
        todo = rounds(
            self.settings,
            repackable=may_repack(self._subject.header, site.layouts) and bool(types & set(site.layouts)),
            threads_fixed=constraints.n_threads is not None,
            on_devices=bool(self.settings.n_gpu_layers),
            affinities=self._subject.affinities,
        )
        for index, one in enumerate(todo):
            if not one.asks(self.settings):  # of the threads that won
                continue
            left = self._until - time.perf_counter()
            self._take(one, left / (len(todo) - index))

    def _take(self, wished: Round, share: float) -> None:
        fitting = wished.within(share, self.settings, self._read, self._write)
        if fitting is None:
            self.skipped.append((wished.name, f"takes longer than {share:.0f} seconds here"))
            return
        ways = fitting.ways(self.settings)
        if not all(self._fits([way]) for way in ways):
            self.skipped.append((wished.name, "there is no memory to try it in"))
            return
        try:
            timings = self._engine.compare(
                self._subject.planned.variant.path,
                ways,
                share,
                fitting.n_past,
                together=self._fits(ways),
                on_progress=lambda _: self._told(fitting.name),
            )
        except InsufficientMemoryError as error:
            self.skipped.append((wished.name, error.message))
            return
        assert timings is not None  # it is never given up but by Ctrl-C, which raises
        found = findings(fitting, ways, timings)
        self.found += found
        self.settings = taken(self.settings, found)
        self._read = min(timings[0].read, default=self._read)
        self._write = min(timings[0].write, default=self._write)

    def _told(self, name: str) -> bool:
        left = self._until - time.perf_counter()
        self._tell(name, min(1.0, max(0.0, 1 - left / self._budget)))
        return True

    def _fits(self, ways: Sequence[Way]) -> bool:
        """Tell whether so many ways can be loaded at once, by arithmetic; weights that they have in common once."""
        site = self._subject.planned.site
        devices = {device.id: device for device in site.devices}
        names = self.settings.devices or ()
        room = make_room(site.memory.available, [devices[name] for name in names], site.reserve())
        found = [self._subject.footprints.arithmetic(way.settings) for way in ways]
        known = [footprint for footprint in found if footprint is not None]
        if len(known) < len(found):
            return len(ways) == 1  # nobody knows: one is like the plan, and the engine says if it is too much
        layouts = [way.settings.repack for way in ways]
        first = [layouts.index(layout) == index for index, layout in enumerate(layouts)]
        return room.holds(_sum(known, first))


def _sum(footprints: Sequence[Footprint], with_weights: Sequence[bool]) -> Footprint:
    """Return what several contexts take together, and the weights of those that bring their own."""

    def own(used: MemoryBreakdown, whole: bool) -> MemoryBreakdown:
        return used if whole else MemoryBreakdown(kv_cache=used.kv_cache, compute=used.compute)

    def add(parts: Sequence[MemoryBreakdown]) -> MemoryBreakdown:
        names = ("weights", "kv_cache", "compute", "overhead", "mapped")
        return MemoryBreakdown(*(sum(getattr(part, name) for part in parts) for name in names))

    pairs = list(zip(footprints, with_weights, strict=True))
    hosts = add([own(one.host, whole) for one, whole in pairs])
    devices = zip(*([own(used, whole) for used in one.devices] for one, whole in pairs), strict=True)
    return Footprint(hosts, tuple(add(parts) for parts in devices))
