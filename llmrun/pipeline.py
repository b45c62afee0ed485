"""The whole way from what was typed to a model that answers; the only module that knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.engine.standby import Standby
from llmrun.errors import EngineError
from llmrun.folders import answers_folder
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_model_header
from llmrun.gguf.summary import ModelSummary, summarize
from llmrun.hardware.device import Device
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host_memory import read_host_memory
from llmrun.hardware.resident import read_resident
from llmrun.hardware.threads import choose_threads, usual_threads
from llmrun.local import locate, variants_of
from llmrun.margins import HOST, pool_name, remember_margins
from llmrun.planning.margins import Margin
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import ModelRef
from llmrun.settings import Constraints
from llmrun.site import Site, described_site, find_site
from llmrun.variant import Variant

if TYPE_CHECKING:
    from llmrun.footprints import Footprints
    from llmrun.planner import Planner
    from llmrun.planning.plan_file import SavedPlan
    from llmrun.speeds import Speeds


def inspect(ref: ModelRef) -> tuple[Path, ModelSummary]:
    """Return where a model's file is and what it says; raises NotFoundError or GGUFError."""
    path = locate(ref)
    return path, summarize(read_model_header(path))


def plan(
    ref: ModelRef, constraints: Constraints = Constraints(), wish: PlanWish = PlanWish(), on: Hardware | None = None
) -> tuple[ModelSummary, Variant, Plan]:
    """Return how a model would be run on this machine or another, before anything of it is loaded.

    Raises NotFoundError, GGUFError, UsageError or EngineError for a device that is not there, InsufficientMemoryError
    where nothing fits, with the nearest that does.
    """
    variants = variants_of(ref)
    with Standby() as standby:
        site = (
            find_site(standby, constraints, variants[0][1], usual_threads())
            if on is None
            else described_site(on, constraints)
        )
        planner = make_planner(variants, site, constraints, wish, standby if on is None else None)
        found = _planned(planner, site, wish)
        chosen = planner.variant(found)
        return chosen.summary, chosen.variant, found


def _planned(planner: Planner, site: Site, wish: PlanWish, replay: SavedPlan | None = None) -> Plan:
    """Return the plan; raises EngineError where a GPU is required and it would not be used."""
    if wish.require_gpu and not site.devices:
        from llmrun.doctor.gpu_required import require_gpu  # here: who requires none starts without the doctor
        from llmrun.doctor.reading import read_facts

        if not site.here:
            raise EngineError("a GPU is required, and the machine that was described has none")
        require_gpu(site.devices, read_facts)
    found = planner.plan() if replay is None else planner.replayed(replay)
    if wish.require_gpu and found.where == "host":
        raise EngineError(
            "a GPU is required, and nothing of the model fits there beside the reserve",
            "`llmrun plan` without --require-gpu shows what is lacking",
        )
    if found.from_disk and site.here:
        from llmrun.hardware.disk import read_disk_speed

        return replace(found, disk_speed=read_disk_speed(planner.variant(found).variant.path))
    return found


def make_planner(
    variants: Sequence[tuple[Variant, GGUFHeader]],
    site: Site,
    constraints: Constraints,
    wish: PlanWish,
    standby: Standby | None,
    speeds: Speeds | None = None,
) -> Planner:
    """Return who plans with these variants; standby is whom to ask about them, None is arithmetic alone.

    speeds: the machine's, None is what is known of it.
    """
    from llmrun.planner import Planner  # here, because `--help` need not wait for it
    from llmrun.speeds import Speeds, open_speeds
    from llmrun.stock import stocked

    known = speeds or (open_speeds(site.threads.decode) if site.here else Speeds(None, site.threads.decode))
    answers = answers_folder()
    stock = [stocked(variant, header, site, known, standby, answers) for variant, header in variants]
    return Planner(stock, site, known, constraints, wish)


@contextlib.contextmanager
def open_footprints(
    header: GGUFHeader, devices: Sequence[str] | None, answers: Path | None = None
) -> Iterator[Footprints]:
    """Start an engine to ask what a model takes on this machine, without planning.

    Raises UsageError or EngineError for a device that was named and is not there.
    """
    from llmrun.footprints import Footprints

    with Standby() as standby:
        wished = Constraints(devices=None if devices is None else tuple(devices))
        yield Footprints(header, find_site(standby, wished, header, usual_threads()).machine, standby, answers)


def available_memory() -> int:
    """Return the bytes of RAM that can be had now."""
    return read_host_memory().available


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


@dataclass(frozen=True, slots=True)
class Started:
    """A loaded model, and the plan it was loaded by; the engine is the caller's to close.

    record: remembers how fast an answer was beside what was predicted for it.
    """

    engine: Engine
    plan: Plan
    record: Callable[[Usage], None]


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom to tell what.

    The engine's log line by line, the plan before it is loaded, loading from 0 to 1, and each step down from the plan
    where the machine disagreed.
    """

    log: Callable[[str], None] | None = None
    planned: Callable[[Plan], None] | None = None
    progress: Callable[[float], None] | None = None
    step: Callable[[str], None] | None = None


def start(
    ref: ModelRef,
    constraints: Constraints = Constraints(),
    wish: PlanWish = PlanWish(),
    listener: Listener = Listener(),
    replay: SavedPlan | None = None,
) -> Started:
    """Plan and load a model, stepping down where the machine disagrees with the plan.

    replay: a plan to load exactly as it is, in the place of a new one. Raises NotFoundError, GGUFError, UsageError,
    InsufficientMemoryError or EngineError, with no process left behind.
    """
    from llmrun.loading import load_plan

    with Standby(listener.log) as standby:
        variants = variants_of(ref)  # while the worker imports llama.cpp, so that it costs nothing
        # looking how busy the machine is takes its time while the worker is busy importing, which is work of ours
        threads = usual_threads() if constraints.n_threads else choose_threads(standby.pids)
        site = find_site(standby, constraints, variants[0][1], threads)
        planner = make_planner(variants, site, constraints, wish, standby)
        plan = _planned(planner, site, wish, replay)
        if listener.planned is not None:
            listener.planned(plan)
        engine, loaded = load_plan(planner, plan, standby, listener.progress, listener.step, fixed=replay is not None)
        try:
            remember_margins(_margins(engine, loaded, site))
            return Started(engine, loaded, planner.recorder(loaded))
        except BaseException:
            engine.close()
            raise


def _margins(engine: Engine, plan: Plan, site: Site) -> dict[str, Margin]:
    """Return what a load took of each pool, as far as the system tells; a server of a CPU says that nothing was."""
    seen: dict[str, Margin] = {}
    resident = read_resident(engine.pid)
    if resident is not None:
        seen[HOST] = Margin(plan.forecast.pools[0].used.total, resident.total)
    before = {device.id: device for device in site.devices if not device.unified and device.backend != "RPC"}
    used = [pool for pool in plan.forecast.pools[1:] if pool.id in before]
    free = {info.id: info.free for info in engine.devices()} if used else {}
    for pool in used:
        device = before[pool.id]
        if device.free is not None and pool.id in free:
            seen[pool_name(device)] = Margin(pool.used.total, max(0, device.free - free[pool.id]))
    return seen
