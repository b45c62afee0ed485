"""Plans of models seen before: taken again only where planning now would give the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun import pipeline
from llmrun.again import Again, again, files_here
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.standby import Standby
from llmrun.folders import plans_folder, speed_folder
from llmrun.hardware.threads import Threads, usual_threads
from llmrun.planning.plan import PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.reference import GUIDE_QUANTS, GuideRef, LocalRef
from llmrun.remembered import Kept, Recalled, recall, seen_devices
from llmrun.settings import Constraints
from tests.conftest import ask
from tests.environments import clean_environment

ONE = Constraints(n_threads=1)
THREADS = Threads(1, 1, "one")
Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(embedded_file("Q8_0"), tmp_path / "model-Q8_0.gguf"))


@pytest.fixture(scope="module")
def standby() -> Iterator[Standby]:
    with Standby() as found:
        yield found


def started(model: Path, constraints: Constraints = ONE, wish: PlanWish = PlanWish()) -> pipeline.Started:
    return pipeline.start(LocalRef(model), constraints, wish, hasty=True)


def remembered(model: Path) -> Again:
    """Have a plan of a model kept, and return the wish to run it again; its threads are those of that start."""
    with started(model).engine:
        pass
    found = again(LocalRef(model), ONE, PlanWish(), usual_threads())
    assert found is not None
    return found


def recalled(known: Again, standby: Standby) -> Recalled | None:
    return recall(known.occasion, standby.devices())


def test_the_second_start_asks_the_engine_nothing_and_gives_the_same(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ask_engine = Engine.dry_run

    def counted(self: Engine, *question: object) -> object:
        asked.append(question)
        return ask_engine(self, *question)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "dry_run", counted)
    with (first := started(model)).engine:
        answer = ask(first.engine, "what is a kv cache")
    assert asked
    shutil.rmtree(plans_folder().parent / "dry-run")  # or its answers would be remembered anyway
    asked.clear()
    with (second := started(model)).engine:
        assert ask(second.engine, "what is a kv cache") == answer
    assert asked == []
    one, other = (
        # what is free changes, and what would be better or other contexts take is not told to who only runs it
        replace(plan, better=(), runners_up=(), forecast=replace(plan.forecast, contexts=(), pools=()))
        for plan in (first.plan, second.plan)
    )
    assert one == other
    before, now = (start.plan.forecast.pools for start in (first, second))
    assert [replace(pool, available=0) for pool in before] == [replace(pool, available=0) for pool in now]
    assert first.summary == second.summary
    assert first.planned.variant == second.planned.variant


def test_what_a_run_prints_is_the_same_and_nothing_that_plans_is_imported(
    model: Path, llmrun: Run, tmp_path: Path
) -> None:
    command = ("run", str(model), "what is a kv cache", "--temp", "0", "-t", "1", "--no-server")
    first, second = llmrun(*command), llmrun(*command)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, first.stderr)
    code = (
        "import sys\nfrom llmrun.cli.main import app\n"
        f"try: app({list(command)!r})\nexcept SystemExit: pass\n"
        "print(*sys.modules)"
    )
    program = [sys.executable, "-P", "-c", code]
    done = subprocess.run(program, env=clean_environment(tmp_path), capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "llmrun.again" in loaded
    heavy = {"planner", "models", "settling", "stock", "footprints", "planning.choose", "memory.estimate", "hub.client"}
    assert loaded & {f"llmrun.{name}" for name in heavy} == set()
    borrowing = {"lenders", "links", "rpc_way", "lending.status", "memory.compute", "memory.graph.plan"}
    assert loaded & {f"llmrun.{name}" for name in borrowing} == set()  # nobody was asked to lend anything
    assert loaded & {"sqlite3", "http.client", "ssl", "rich", "concurrent.futures"} == set()


def test_a_plan_says_what_is_free_now(model: Path, standby: Standby) -> None:
    known = remembered(model)
    found = recalled(known, standby)
    assert found is not None
    assert found.plan.forecast.pools[0].available == found.site.memory.available
    assert found.plan.forecast.fits


@pytest.mark.parametrize(
    "changed",
    [
        lambda known: replace(known, constraints=replace(ONE, n_ctx=512)),
        lambda known: replace(known, wish=PlanWish(prefer="speed")),
        lambda known: replace(known, wish=PlanWish(reserve_host=1 << 20)),
        lambda known: replace(known, threads=Threads(3, 3, "others")),
        lambda known: replace(known, paths=(*known.paths, embedded_file("F16"))),
    ],
)
def test_another_wish_is_planned_anew(changed: Callable[..., object], model: Path, standby: Standby) -> None:
    known = remembered(model)
    assert recall(changed(known.occasion), standby.devices()) is None  # type: ignore[arg-type]


def test_a_file_that_was_changed_is_planned_anew(model: Path, standby: Standby) -> None:
    known = remembered(model)
    status = model.stat()
    with model.open("r+b") as file:  # of the same size and time
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert recalled(known, standby) is None
    with model.open("r+b") as file:
        file.seek(100)
        file.write(byte)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert recalled(known, standby) is not None
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert recalled(known, standby) is None


def test_a_machine_with_a_device_more_is_planned_anew(model: Path, standby: Standby) -> None:
    known = remembered(model)
    devices = standby.devices()
    card = replace(devices[0], id="CUDA0", kind="GPU", backend="CUDA")
    assert recall(known.occasion, devices) is not None
    assert recall(known.occasion, (*devices, card)) is None
    assert recall(known.occasion, [replace(one, free=one.free // 2) for one in devices]) is not None


def test_what_is_measured_since_is_planned_with(model: Path, standby: Standby) -> None:
    known = remembered(model)
    speed_folder().mkdir(parents=True, exist_ok=True)
    (speed_folder() / "machine-1.runs").write_text("{}")
    assert recalled(known, standby) is not None, "what runs teach changes what is predicted, and no choice"
    (speed_folder() / "machine-1.rates").write_text("{}")
    assert recalled(known, standby) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"no plan", b'{"plan": 1}', b"\xff" * 100])
def test_a_damaged_file_is_as_good_as_none(content: bytes, model: Path, standby: Standby) -> None:
    known = remembered(model)
    path = known.occasion.path()
    whole = path.read_bytes()
    path.write_bytes(content)
    assert recalled(known, standby) is None
    path.write_bytes(whole[: len(whole) // 2])
    assert recalled(known, standby) is None
    path.write_bytes(whole)
    assert recalled(known, standby) is not None


def test_a_plan_that_no_longer_fits_is_planned_anew(model: Path, standby: Standby) -> None:
    from llmrun.engine.wire import pack, unpack

    known = remembered(model)
    path = known.occasion.path()
    kept = unpack(path.read_bytes(), Kept)
    host = replace(kept.lasting.taken[1].host, compute=1 << 50)
    much = replace(kept.lasting, taken=(kept.lasting.taken[0], replace(kept.lasting.taken[1], host=host)))
    path.write_bytes(pack(replace(kept, lasting=much)))
    assert recalled(known, standby) is None


def test_a_load_that_fails_is_planned_anew(model: Path) -> None:
    from llmrun.engine.wire import pack, unpack

    known = remembered(model)
    path = known.occasion.path()
    kept = unpack(path.read_bytes(), Kept)
    settings = replace(kept.plan.settings, n_ctx=1 << 24)  # a cache of 100 GiB, which no machine of ours gives
    plan = replace(kept.plan, forecast=replace(kept.plan.forecast, settings=settings))
    path.write_bytes(pack(replace(kept, plan=plan)))
    with (anew := started(model)).engine:
        assert anew.plan.settings.n_ctx != 1 << 24
        assert ask(anew.engine, "what is a kv cache")


def test_nothing_is_kept_where_more_than_the_model_is_run() -> None:
    guide = GuideRef(None)
    assert again(guide, replace(ONE, projector="auto"), PlanWish(), THREADS) is None
    assert again(guide, replace(ONE, draft="guide:Q4_K_M"), PlanWish(), THREADS) is None
    assert again(guide, ONE, PlanWish(source="arithmetic"), THREADS) is None
    assert again(LocalRef(Path("there/is/none.gguf")), ONE, PlanWish(), THREADS) is None


def test_a_plan_that_is_replayed_is_not_kept(model: Path) -> None:
    with (first := started(model)).engine:
        saved = SavedPlan(first.plan.quant, first.planned.variant.size, first.plan.settings)
    shutil.rmtree(plans_folder())
    with pipeline.start(LocalRef(model), ONE, replay=saved, hasty=True).engine:
        pass
    assert not plans_folder().exists()


def test_files_that_may_be_meant_are_all_looked_at(tmp_path: Path) -> None:
    assert files_here(GuideRef(None)) == tuple(map(embedded_file, GUIDE_QUANTS))
    parts = tuple(tmp_path / f"m-0000{no}-of-00002.gguf" for no in (1, 2))
    for part in parts:
        part.touch()
    assert files_here(LocalRef(parts[1])) == parts
    assert files_here(LocalRef(tmp_path)) == ()


def test_devices_are_told_apart_but_not_by_what_is_free(standby: Standby) -> None:
    devices = standby.devices()
    assert seen_devices(devices) == seen_devices([replace(one, free=0) for one in devices])
    assert seen_devices(devices) != seen_devices([replace(one, total=1) for one in devices])
