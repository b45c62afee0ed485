"""A plan loaded; and where the machine disagrees with it, the next one, until one is loaded or none is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from llmrun.engine.client import Engine
from llmrun.engine.refusal import has_lost_a_server
from llmrun.engine.standby import Standby
from llmrun.errors import InsufficientMemoryError, WorkerDiedError
from llmrun.hardware.resident import read_resident
from llmrun.margins import HOST, pool_name
from llmrun.planner import Planner
from llmrun.planning.failure import Failure
from llmrun.planning.margins import Margin
from llmrun.planning.plan import Plan
from llmrun.planning.step_down import Kind
from llmrun.site import Site
from llmrun.units import format_bytes

_MOST_TRIES = 2  # of less of the same kind
_SIGKILL = 9


def load_plan(
    planner: Planner,
    plan: Plan,
    standby: Standby,
    on_progress: Callable[[float], None] | None = None,
    on_step: Callable[[str], None] | None = None,
    *,
    fixed: bool = False,
    most_threads: tuple[int, int] | None = None,
) -> tuple[Engine, Plan]:
    """Load a plan and return the engine, the caller's to close, with the plan that was loaded in the end.

    on_step gets one line for each step down. fixed: take none. Raises what the last attempt raised; where memory was
    refused, with whose and how much. most_threads: see engine.protocol.Load; not where devices compute all of it.
    """
    tries: Counter[Kind] = Counter()
    while True:
        engine = standby.take()
        try:
            path, most = planner.variant(plan).variant.path, most_threads if plan.where != "devices" else None
            engine.load(path, plan.settings, on_progress, most_threads=most)
            return engine, plan
        except (InsufficientMemoryError, WorkerDiedError) as error:
            engine.close()
            failure = failure_of(error, plan)
            exhausted = [kind for kind, count in tries.items() if count >= _MOST_TRIES]
            found = None if fixed or failure is None else planner.after(plan, failure, exhausted)
            if failure is None:
                raise
            if found is None:
                raise _told(error, failure) from error
            kind, less = found
            tries[kind] += 1
            if on_step is not None:
                on_step(_line(failure, kind, plan, less))
            plan = less
        except BaseException:
            engine.close()
            raise


def failure_of(error: InsufficientMemoryError | WorkerDiedError, plan: Plan) -> Failure | None:
    """Return what an error of loading says about memory; None where it says nothing about it.

    A device whose server is gone is not asked for less: devices of servers are there because they were named, without
    them the wish is another one, and llama.cpp aborts where it cannot reach them.
    """
    known = {pool.id for pool in plan.forecast.pools}
    if error.refusal is not None:
        pool = error.refusal.device or "host"
        return Failure(pool if pool in known else "host", error.refusal.what, error.refusal.bytes_asked)
    if isinstance(error, InsufficientMemoryError) or error.signal == _SIGKILL:
        return Failure("host")  # the kernel kills for the host's memory
    devices = plan.settings.devices
    if not devices or has_lost_a_server(error.log):
        return None
    return Failure(devices[0])  # a driver, most likely


def _told(error: InsufficientMemoryError | WorkerDiedError, failure: Failure) -> InsufficientMemoryError:
    message = f"{_lack(failure)}: {error.message}"
    return InsufficientMemoryError(message, error.hint, error.refusal)


def _line(failure: Failure, kind: Kind, plan: Plan, less: Plan) -> str:
    changes = [f"{less.quant} in place of {plan.quant}"] if kind == "variant" else []
    changes += _changes(plan, less)
    return f"{_lack(failure)}: trying {' and '.join(changes)}"


def _lack(failure: Failure) -> str:
    where = "RAM" if failure.pool == "host" else failure.pool
    names = {"weights": " for weights", "kv_cache": " for the KV cache", "compute": " for computing"}
    asked = "did not suffice" if failure.asked is None else f"did not give {format_bytes(failure.asked)}"
    return f"{where} {asked}{'' if failure.part is None else names[failure.part]}"


def _changes(plan: Plan, less: Plan) -> list[str]:
    old, new = plan.settings, less.settings
    changes = []
    if new.n_gpu_layers != old.n_gpu_layers:
        changes.append(f"{new.n_gpu_layers} layers on {', '.join(old.devices or ())} in place of {old.n_gpu_layers}")
    elif new.cpu_experts != old.cpu_experts:
        changes.append(f"the experts of {new.cpu_experts} layers in RAM")
    if new.type_k != old.type_k:
        changes.append(f"a KV cache of {new.type_k} in place of {old.type_k}")
    if less.forecast.n_ctx_each != plan.forecast.n_ctx_each:
        changes.append(f"a context of {less.forecast.n_ctx_each:,} tokens in place of {plan.forecast.n_ctx_each:,}")
    return changes


def margins_of(engine: Engine, plan: Plan, site: Site) -> dict[str, Margin]:
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
