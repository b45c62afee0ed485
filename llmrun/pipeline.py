"""The whole way from what was typed to a model that answers; the only module that knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.again import Again, again, load_again, recorder
from llmrun.engine.client import Engine
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError, InsufficientMemoryError
from llmrun.hardware.host_memory import read_host_memory
from llmrun.hardware.threads import choose_threads, usual_threads
from llmrun.hub.settings import hub_address as hub_address
from llmrun.margins import remember_margins
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import LocalRef, ModelRef
from llmrun.settings import Constraints
from llmrun.started import Planned as Planned
from llmrun.started import Started as Started

if TYPE_CHECKING:  # here and in the functions: who starts a model again needs none of what plans, finds and fetches
    from llmrun.footprints import Footprints
    from llmrun.gguf.header import GGUFHeader
    from llmrun.gguf.summary import ModelSummary
    from llmrun.hardware.device import Device
    from llmrun.hardware.hardware import Hardware
    from llmrun.hub.fetch import FetchListener
    from llmrun.hub.repository import Hit, Repository
    from llmrun.memory.rules_of_thumb import FreeMemory
    from llmrun.models import Opened, Search
    from llmrun.neighbours import Neighbourhood
    from llmrun.planning.plan_file import SavedPlan
    from llmrun.settling import Settled
    from llmrun.site import Site
    from llmrun.survey import Survey
    from llmrun.variant import Variant


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom to tell what.

    The engine's log line by line, what is to be known of where a model was found, a host that takes long to answer, the
    plan before anything is fetched or loaded, how fetching goes, loading from 0 to 1, and each step down from the plan
    where the machine disagreed.
    """

    log: Callable[[str], None] | None = None
    note: Callable[[str], None] | None = None
    slow: Callable[[str], None] | None = None
    planned: Callable[[Planned], None] | None = None
    fetch: FetchListener | None = None
    progress: Callable[[float], None] | None = None
    step: Callable[[str], None] | None = None


def inspect(ref: ModelRef, *, offline: bool = False) -> tuple[str, ModelSummary]:
    """Return where a model's file is and what it says, of several one whose header has to be read anyway.

    Raises NotFoundError, GGUFError or HubError.
    """
    from llmrun.gguf.source import read_model_header
    from llmrun.gguf.summary import summarize
    from llmrun.local import locate
    from llmrun.models import Search, open_model

    if isinstance(ref, LocalRef):
        path = locate(ref)
        return str(path), summarize(read_model_header(path))
    model = open_model(ref, Search(offline=offline, room=available_memory)).model
    variant, header = next(found for found in model.found() if model.is_read(found[0].quant))
    origin = variant.files[0].origin
    where = str(origin) if isinstance(origin, Path) else f"{origin.path} of {origin.repo_id} at {origin.commit[:12]}"
    return where, summarize(header)


def plan(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    wish: PlanWish = PlanWish(),
    on: Hardware | None = None,
    listener: Listener = Listener(),
    *,
    offline: bool = False,
) -> Planned:
    """Return how a model would be run on this machine or another, before anything of it is fetched or loaded.

    Raises NotFoundError, GGUFError, HubError, UsageError or EngineError for a device that is not there,
    InsufficientMemoryError where nothing fits, with the nearest that does.
    """
    from llmrun.beside import open_beside
    from llmrun.settling import Wishes, settle, stockroom_for

    wishes = Wishes(constraints, wish, on)
    with Standby() as standby:
        search = _search(standby, listener, offline=offline, on=on)
        opened = _opened(ref, search, listener)
        wishes = open_beside(ref, wishes, opened, search)
        settled = settle(opened.model, stockroom_for(opened.model, standby, wishes, usual_threads()), wishes)
        _tell_draft(settled, listener)
        return _planned(settled)


def _planned(settled: Settled, plan: Plan | None = None) -> Planned:
    """Return a plan with what it is of. plan: what it became while it was loaded, None is as it was settled."""
    plan = plan or settled.plan
    stocked = settled.planner.variant(plan)
    return Planned(stocked.summary, stocked.variant, plan, settled.site)


def _search(
    standby: Standby, listener: Listener, *, offline: bool, fresh: bool = False, on: Hardware | None = None
) -> Search:
    from llmrun.hub.client import is_offline
    from llmrun.models import Search

    room = partial(_room, standby) if on is None else lambda: on.host.memory.available
    offline = offline or is_offline()
    return Search(offline=offline, fresh=fresh and not offline, room=room, slow=listener.slow or _tell_nobody)


def _tell_nobody(_: str) -> None: ...


def _room(standby: Standby) -> int:
    """Return how many bytes a model may take here, about: of the host, or of its cards where those have more."""
    free: list[int] = []
    with contextlib.suppress(EngineError):
        free = [info.free for info in standby.devices() if info.kind == "GPU"]
    return max(available_memory(), sum(free))


def _opened(ref: ModelRef, search: Search, listener: Listener) -> Opened:
    from llmrun.models import open_model

    opened = open_model(ref, search)
    for note in opened.notes if listener.note is not None else ():
        assert listener.note is not None
        listener.note(note)
    return opened


def search(words: str, limit: int, listener: Listener = Listener()) -> tuple[Hit, ...]:
    """Return the repositories with GGUF files that the Hub finds; raises UnreachableError or HubError."""
    from llmrun.hub.repository import search_repositories

    return search_repositories(words, limit, listener.slow or _tell_nobody)


@dataclass(frozen=True, slots=True)
class Shown:
    """A survey of a model's variants on a machine, where they are from, which are here, and what else is there."""

    survey: Survey
    repository: Repository | None
    here: tuple[str, ...]
    sidecars: tuple[str, ...]
    unusable: tuple[str, ...]
    site: Site


def show(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    wish: PlanWish = PlanWish(),
    listener: Listener = Listener(),
    *,
    exact: bool = False,
    offline: bool = False,
) -> Shown:
    """Return all variants of a model side by side, as the Hub has them now. exact: read every header."""
    from llmrun.hub.client import is_offline
    from llmrun.settling import Wishes, settle, stockroom_for
    from llmrun.survey import survey

    wishes = Wishes(constraints, wish)
    with Standby() as standby:
        opened = _opened(
            ref, _search(standby, listener, offline=offline, fresh=not (offline or is_offline())), listener
        )
        model = opened.model
        for variant, _ in model.found() if exact else ():
            model.read(variant.quant)
        room = stockroom_for(model, standby, wishes, usual_threads())
        try:
            plan = settle(model, room, wishes).plan
        except InsufficientMemoryError:
            plan = None
        read = [model.is_read(variant.quant) for variant, _ in model.found()]
        table = survey(room.stock(model.found()), read, room.site, room.speeds, constraints, wish, plan)
        return Shown(table, opened.repository, _here(opened), opened.sidecars, opened.unusable, room.site)


def _here(opened: Opened) -> tuple[str, ...]:
    """Return the labels of the variants that need not be fetched."""
    from llmrun.hub.cache import cached_files

    repository = opened.repository
    if repository is None:
        return tuple(variant.quant for variant, _ in opened.model.found())
    there = {file.name for file in cached_files(repository.repo_id, repository.commit)}
    return tuple(
        variant.quant for variant, _ in opened.model.found() if all(file.name in there for file in variant.files)
    )


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was fetched, or was here. plan: how it would be run here, None where it does not fit."""

    variant: Variant
    paths: tuple[Path, ...]
    plan: Plan | None


def pull(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    wish: PlanWish = PlanWish(),
    listener: Listener = Listener(),
    *,
    local_dir: Path | None = None,
    offline: bool = False,
) -> Pulled:
    """Fetch a model: the quantization that is named, else the one that would be run here.

    local_dir: where its files go, in place of the cache. Raises what plan and fetching raise; a quantization that was
    named is fetched though it does not fit here, and the listener is told so.
    """
    from llmrun.fetching import fetch_variant
    from llmrun.hub.client import is_offline
    from llmrun.settling import Wishes, settle, stockroom_for

    with Standby(listener.log) as standby:
        opened = _opened(
            ref, _search(standby, listener, offline=offline, fresh=not (offline or is_offline())), listener
        )
        planned: Planned | None = None
        found, wishes = opened.model.found(), Wishes(constraints, wish)
        try:
            settled = settle(opened.model, stockroom_for(opened.model, standby, wishes, usual_threads()), wishes)
            planned, variant = _planned(settled), settled.chosen.variant
        except InsufficientMemoryError as error:
            if len(found) > 1:
                raise
            variant = found[0][0]
            if listener.note is not None:
                listener.note(f"it does not fit here: {error.message}")
    if planned is not None and listener.planned is not None:
        listener.planned(planned)
    paths = fetch_variant(variant, opened.repository, listener.fetch, local_dir)
    return Pulled(variant, paths, None if planned is None else planned.plan)


@contextlib.contextmanager
def open_footprints(
    header: GGUFHeader, devices: Sequence[str] | None, answers: Path | None = None
) -> Iterator[Footprints]:
    """Start an engine to ask what a model takes on this machine, without planning.

    Raises UsageError or EngineError for a device that was named and is not there.
    """
    from llmrun.footprints import Footprints
    from llmrun.site import find_site

    with Standby() as standby:
        wished = Constraints(devices=None if devices is None else tuple(devices))
        yield Footprints(header, find_site(standby, wished, header, usual_threads()).machine, standby, answers)


def available_memory() -> int:
    """Return the bytes of RAM that can be had now."""
    return read_host_memory().available


def free_memory() -> FreeMemory:
    """Return what is free on this machine, and what a plan leaves free where loads have taught nothing about it."""
    from llmrun.hardware.reported import devices_of
    from llmrun.memory.rules_of_thumb import FreeMemory
    from llmrun.planning.pools import DEVICE_RESERVE, host_reserve

    devices: tuple[Device, ...] = ()
    with contextlib.suppress(EngineError), Engine() as engine:  # without an engine there is no device to be had
        devices = devices_of(engine.devices(), None)
    own = (device for device in devices if not device.unified and device.free is not None)
    cards = {(device.name, device.total): (device.id, device.free or 0) for device in own}  # one card, two backends
    memory = read_host_memory()
    kept = host_reserve(memory.machine_total or memory.total, memory.limit, memory.outside)
    return FreeMemory(memory.available, kept, tuple(cards.values()), DEVICE_RESERVE)


def start(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    wish: PlanWish = PlanWish(),
    listener: Listener = Listener(),
    replay: SavedPlan | None = None,
    *,
    offline: bool = False,
    beside: Neighbourhood | None = None,
    hasty: bool = False,
) -> Started:
    """Plan, fetch and load a model, stepping down where the machine disagrees with the plan.

    replay: a plan to load exactly as it is, in the place of a new one. beside: models that are loaded already, of which
    those that are idle are ended where it needs their room. hasty: a plan that was made before will do where it is the
    same, and need not say what would be better. Raises NotFoundError, GGUFError, UsageError, InsufficientMemoryError,
    HubError or EngineError, with no process left behind.
    """
    with Standby(listener.log) as standby:  # looking how busy the machine is takes its time while that is importing
        ours = (*standby.pids, *(() if beside is None else beside.pids()))
        threads = usual_threads() if constraints.n_threads else choose_threads(ours)
        known = again(ref, constraints, wish, threads) if hasty and replay is None else None
        if known is not None and (started := _started_again(known, standby, listener)) is not None:
            return started
        from llmrun.beside import open_beside
        from llmrun.neighbours import Alone, Settling
        from llmrun.settling import Wishes

        wishes, around = Wishes(constraints, wish, replay=replay), beside or Alone()
        search = _search(standby, listener, offline=offline)
        opened = _opened(ref, search, listener)
        wishes = open_beside(ref, wishes, opened, search)
        settled = Settling(opened.model, standby, wishes, threads, around).settled()
        if listener.planned is not None:
            listener.planned(_planned(settled))
        _tell_draft(settled, listener)
        variant = settled.chosen.variant
        if not variant.is_here or not wishes.are_here:
            from llmrun.fetching import fetch_beside, fetch_model

            # fetching may take an hour, in which memory was given and taken: what came is planned with as it is now
            model = opened.model if variant.is_here else fetch_model(variant, opened.repository, listener.fetch)
            wishes = fetch_beside(wishes, listener.fetch)
            settled = Settling(model, standby, wishes, threads, around).settled()
        elif known is not None and not opened.notes:
            known.keep(settled, standby)
        return _loaded(settled, standby, listener, constraints, fixed=replay is not None)


def _loaded(
    settled: Settled, standby: Standby, listener: Listener, constraints: Constraints, *, fixed: bool
) -> Started:
    from llmrun.loading import load_plan, margins_of

    planner, most = settled.planner, _most_threads(constraints, fixed=fixed)
    engine, loaded = load_plan(
        planner, settled.plan, standby, listener.progress, listener.step, fixed=fixed, most_threads=most
    )
    try:
        remember_margins(margins_of(engine, loaded, settled.site))
        used = None if loaded.where == "devices" else most
        return Started(engine, _planned(settled, loaded), planner.recorder(loaded), used)
    except BaseException:
        engine.close()
        raise


def _started_again(known: Again, standby: Standby, listener: Listener) -> Started | None:
    if (recalled := known.recalled(standby)) is None:
        return None
    planned = Planned(recalled.summary, recalled.variant, recalled.plan, recalled.site)
    if listener.planned is not None:
        listener.planned(planned)
    most = _most_threads(known.occasion.constraints)
    engine = load_again(recalled, standby, listener.progress, most)
    return None if engine is None else Started(engine, planned, recorder(recalled), most)


def _tell_draft(settled: Settled, listener: Listener) -> None:
    """Say of a draft that is no smaller than its model that it will hardly pay."""
    draft = settled.plan.draft
    if listener.note is not None and draft is not None and draft.size >= settled.chosen.variant.size:
        listener.note(f"{draft.name} is no smaller than the model it guesses for, and will hardly make it faster")


def _most_threads(constraints: Constraints, *, fixed: bool = False) -> tuple[int, int] | None:
    """Return how many threads the engine may use where it has the choice; None where they are fixed."""
    if fixed or constraints.n_threads is not None:
        return None
    usual = usual_threads()
    return usual.decode, usual.batch
