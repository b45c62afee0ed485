"""Plans beside models that are loaded: what idle ones hold counts as free, and only what is needed of it is taken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun import pipeline
from llmrun.engine.standby import Standby
from llmrun.errors import BusyError, InsufficientMemoryError
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory, read_host_memory
from llmrun.hardware.resident import Resident, read_resident
from llmrun.hardware.threads import Threads
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.models import open_model
from llmrun.neighbours import Alone, Neighbour, Neighbourhood, Settling, State, site_without
from llmrun.planning.plan import PlanWish
from llmrun.planning.pools import Pool
from llmrun.reference import parse_reference
from llmrun.settings import Constraints
from llmrun.settling import Settled, Wishes
from llmrun.site import Site

MIB = 1 << 20
TOTAL = 8192 * MIB
ONE = Threads(1, 1, "as the test says")


def pool(used: int, mapped: int = 0, pool_id: str = "host") -> Pool:
    return Pool(pool_id, pool_id, TOTAL, TOTAL, 0, MemoryBreakdown(weights=used, mapped=mapped))


def neighbour(name: str, state: State, size: int) -> Neighbour:
    """A model whose process holds all that was planned for it, nothing of it pages of a file."""
    return Neighbour(name, state, (pool(size),), Resident(size, 1))


@dataclass
class Machine:
    """A host whose memory is what its models leave; it counts as another machine, so arithmetic alone is asked."""

    models: list[Neighbour] = field(default_factory=list)
    total: int = TOTAL
    ended: list[str] = field(default_factory=list)

    def site(self) -> Site:
        taken = sum(one.given for one in self.models)
        return Site(HostMemory(self.total, self.total - taken), ONE, here=False)

    def neighbours(self) -> tuple[Neighbour, ...]:
        return tuple(self.models)

    def release(self, gone: Neighbour) -> bool:
        self.models.remove(gone)
        self.ended.append(gone.name)
        return True

    def pids(self) -> tuple[int, ...]:
        return ()

    def check(self, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class WishesOn(Wishes):
    """Wishes for such a machine."""

    machine: Machine = field(default_factory=Machine)

    def site(self, standby: Standby, header: GGUFHeader, threads: Threads) -> Site:
        return self.machine.site()


@pytest.fixture(scope="module")
def standby() -> Iterator[Standby]:
    with Standby() as found:
        yield found


def settled(standby: Standby, machine: Machine, beside: Neighbourhood | None = None) -> Settled:
    """The plan for guide with so many conversations that it takes some 400 MiB, or less with a smaller KV cache."""
    wishes = WishesOn(Constraints(parallel=32), PlanWish(reserve_host=0, source="arithmetic"), machine=machine)
    model = open_model(parse_reference("guide")).model
    return Settling(model, standby, wishes, ONE, machine if beside is None else beside).settled()


def test_an_idle_model_costs_the_next_one_nothing(standby: Standby) -> None:
    alone = settled(standby, Machine())
    machine = Machine([neighbour("old", "idle", TOTAL - 100 * MIB)])
    found = settled(standby, machine)
    assert found.plan.settings == alone.plan.settings
    assert machine.ended == ["old"]
    assert found.site.memory.available == TOTAL  # as it was when loading began


def test_what_fits_beside_it_ends_nobody(standby: Standby) -> None:
    machine = Machine([neighbour("old", "idle", 4096 * MIB)])
    settled(standby, machine)
    assert machine.ended == []


def test_only_as_many_go_as_must_the_first_one_first(standby: Standby) -> None:
    machine = Machine([neighbour("a", "idle", 3000 * MIB), neighbour("b", "idle", 5000 * MIB)])
    settled(standby, machine)
    assert machine.ended == ["a"]


def test_pinned_and_busy_ones_are_planned_around(standby: Standby) -> None:
    roomy = settled(standby, Machine()).plan
    machine = Machine([neighbour("p", "pinned", 4000 * MIB), neighbour("b", "busy", TOTAL - 4300 * MIB)])
    found = settled(standby, machine).plan
    assert machine.ended == []
    assert found.forecast.pools[0].needed <= 300 * MIB < roomy.forecast.pools[0].needed


def test_what_fits_only_when_a_busy_one_is_gone_is_told_so(standby: Standby) -> None:
    machine = Machine([neighbour("idle", "idle", 20 * MIB), neighbour("talker", "busy", TOTAL - 20 * MIB)])
    with pytest.raises(BusyError, match="beside talker"):
        settled(standby, machine)
    assert machine.ended == []  # nobody is ended in vain


def test_what_does_not_fit_even_then_is_refused_and_ends_nobody(standby: Standby) -> None:
    machine = Machine([neighbour("a", "idle", 40 * MIB), neighbour("b", "busy", 10 * MIB)], total=52 * MIB)
    with pytest.raises(InsufficientMemoryError):
        settled(standby, machine)
    assert machine.ended == []


def test_one_that_somebody_needs_meanwhile_is_planned_around(standby: Standby) -> None:
    class Changed(Machine):
        def release(self, gone: Neighbour) -> bool:
            self.models[self.models.index(gone)] = replace(gone, state="busy")
            return False

    machine = Changed([neighbour("a", "idle", TOTAL - 300 * MIB)])
    found = settled(standby, machine)
    assert found.plan.forecast.pools[0].needed <= 300 * MIB


def settled_with_lender(standby: Standby, machine: Machine) -> Settled:
    """A plan for guide with a lender's device wished for, on a machine that the test describes."""
    wishes = WishesOn(
        Constraints(devices=("rpc:a:1/1",)), PlanWish(reserve_host=0, source="arithmetic"), machine=machine
    )
    return Settling(open_model(parse_reference("guide")).model, standby, wishes, ONE, machine).settled()


def borrower(name: str, state: State, *lenders: str) -> Neighbour:
    return replace(neighbour(name, state, MIB), lenders=lenders)


def test_an_idle_model_gives_its_lender_up_and_no_other_one_goes(standby: Standby) -> None:
    machine = Machine([borrower("other", "idle", "rpc:b:1"), borrower("old", "idle", "rpc:b:2", "rpc:a:1")])
    settled_with_lender(standby, machine)
    assert machine.ended == ["old"]


@pytest.mark.parametrize(("state", "error"), [("busy", BusyError), ("pinned", InsufficientMemoryError)])
def test_whoever_has_the_lender_and_stays_is_named(standby: Standby, state: State, error: type[Exception]) -> None:
    machine = Machine([borrower("old", "idle", "rpc:a:1"), borrower("talker", state, "rpc:a:1")])
    with pytest.raises(error, match="rpc:a:1 is lent to talker, which"):
        settled_with_lender(standby, machine)
    assert machine.ended == []


SIZES = st.integers(1, 4000).map(lambda size: size * MIB)
STATES: st.SearchStrategy[State] = st.sampled_from(["idle", "busy", "pinned"])


@given(st.lists(st.tuples(STATES, SIZES), max_size=5), st.integers(0, 1200))
@settings(max_examples=20)
def test_whoever_is_there_the_plan_is_as_if_no_idle_one_was(
    standby: Standby, around: list[tuple[State, int]], free: int
) -> None:
    models = [neighbour(f"m{index}", state, size) for index, (state, size) in enumerate(around)]
    total = free * MIB + sum(one.given for one in models)
    without = Machine([one for one in models if one.state != "idle"], total)
    machine = Machine(list(models), total)
    try:
        wanted = settled(standby, without, Alone() if not without.models else None)
    except (InsufficientMemoryError, BusyError) as error:
        with pytest.raises(type(error)):
            settled(standby, machine)
        assert machine.ended == []
        return
    assert settled(standby, machine).plan.settings == wanted.plan.settings
    idle = [one.name for one in models if one.state == "idle"]
    assert machine.ended == idle[: len(machine.ended)]
    if machine.ended:  # the last of them was needed too
        last = next(one for one in models if one.name == machine.ended[-1])
        assert wanted.plan.forecast.pools[0].needed > machine.site().memory.available - last.given


def test_pages_of_a_file_count_as_free_only_where_their_model_goes() -> None:
    site = Site(HostMemory(1000, 600), ONE, here=False)  # 600: with the 300 of the file's pages
    one = Neighbour("a", "idle", (pool(500, mapped=300),), Resident(200, 300))
    assert site_without(site, (), [one]).memory.available == 800
    assert site_without(site, [one], ()).memory.available == 300


def test_what_a_model_was_promised_and_has_not_taken_is_not_free() -> None:
    site = Site(HostMemory(1000, 950), ONE, here=False)
    one = Neighbour("a", "busy", (pool(400),), Resident(50, 10))
    assert site_without(site, [one], ()).memory.available == 600


def test_memory_of_a_device_comes_back_too() -> None:
    gpu = Device("CUDA0", "CUDA", "a card", 1000, 100)
    site = Site(HostMemory(1000, 900), ONE, (gpu,), here=False)
    one = Neighbour("a", "idle", (pool(100), pool(700, pool_id="CUDA0")), Resident(100, 1))
    assert site_without(site, (), [one]).devices[0].free == 800
    assert site_without(site, [one], ()).devices[0].free == 100


@dataclass
class Hog:
    """A process that really holds memory, in the place of an idle model."""

    process: subprocess.Popen[str]
    size: int

    def neighbours(self) -> tuple[Neighbour, ...]:
        if self.process.returncode is not None:
            return ()
        return (Neighbour("hog", "idle", (pool(self.size),), read_resident(self.process.pid)),)

    def release(self, gone: Neighbour) -> bool:
        self.process.kill()
        self.process.wait()
        return True

    def pids(self) -> tuple[int, ...]:
        return (self.process.pid,)

    def check(self, path: Path) -> None: ...


@pytest.mark.skipif(read_host_memory().available < 5120 * MIB, reason="needs 5 GiB that can be had")
def test_on_this_machine_memory_that_is_really_held_is_given_back() -> None:
    size = 3072 * MIB  # what is available moves by hundreds of MiB on machines whose host gives and takes
    before = read_host_memory().available
    code = f"x = b'1' * {size}\nprint('full', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "full\n"
            # beside it nothing fits, without it half of what it held is left
            wish = PlanWish(reserve_host=before - size // 2)
            reference, constraints = parse_reference("guide"), Constraints(n_threads=1)
            with pytest.raises(InsufficientMemoryError):
                pipeline.start(reference, constraints, wish)
            hog = Hog(process, size)
            started = pipeline.start(reference, constraints, wish, beside=hog)
            started.engine.close()
            assert process.returncode is not None
            assert started.plan.forecast.n_ctx_each == 2048
        finally:
            process.kill()
