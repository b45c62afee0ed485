"""lenders, links and the plan with them: real `llmrun lend`s, borrowed from by the whole program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun import lenders as asking
from llmrun import pipeline
from llmrun.cli.lender_text import lender_lines, link_text, sending_lines
from llmrun.cli.planning import plan_figures
from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Measure
from llmrun.errors import EngineError, UnauthorizedError, UsageError
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.link import USUAL_LINK, Link
from llmrun.lenders import KEY_FILE, Found, address_of, ask_status, find_lenders, retold, told
from llmrun.lending.status import LentDevice, Status
from llmrun.links import Links, Road, measure_link, parse_link
from llmrun.planning.lent import lent_parts
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, Needs, Rates
from llmrun.reference import LocalRef
from llmrun.settings import Constraints, RunSettings
from llmrun.site import lent_devices
from llmrun.started import Started
from scripts.synthetic import Shape, write_model
from tests.conftest import ask
from tests.environments import clean_environment
from tests.lent import LendingProgram, lending, linux_only

MIB = 1 << 20
SHAPE = Shape(n_layer=6, n_embd=512, n_ff=2048, n_head=8, n_head_kv=8, n_vocab=2048, tied=False)
QUESTION = "how much memory does a 7B model need at 4 bits?"
GUIDE = LocalRef(embedded_file("Q8_0"))
KEY = b"a key that nobody guesses"
NOBODY = pipeline.Listener()
Lenders = tuple[LendingProgram, LendingProgram]


@pytest.fixture(scope="module")
def lenders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lenders]:
    """One that lends little, and one that lends more and wants a key."""
    home = tmp_path_factory.mktemp("home")
    file = home / "key"
    file.touch(0o600)
    file.write_bytes(KEY)
    before = os.environ.get(KEY_FILE)
    os.environ[KEY_FILE] = str(file)
    try:
        with (
            lending(home / "a", "--memory", "28MiB") as little,
            lending(home / "b", "--memory", "60MiB", "--key-file", str(file), key=KEY) as more,
        ):
            yield little, more
    finally:
        os.environ.pop(KEY_FILE) if before is None else os.environ.update({KEY_FILE: before})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is remembered between runs lies here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(lenders: Sequence[LendingProgram]) -> tuple[str, ...]:
    return tuple(f"rpc:{one.endpoint}" for one in lenders)


def wished(devices: Sequence[str], limits: Sequence[int | None] = (), n_ctx: int = 1024) -> Constraints:
    return Constraints(devices=tuple(devices), device_limits=tuple(limits), n_threads=1, n_ctx=n_ctx)


@contextmanager
def running(path: Path, constraints: Constraints, listener: pipeline.Listener = NOBODY) -> Iterator[Started]:
    started = pipeline.start(LocalRef(path), constraints, listener=listener)
    with started.engine:
        yield started


def resident(one: LendingProgram) -> int:
    return psutil.Process(one.server_pid()).memory_info().rss


def alone(started: Started, question: str) -> str:
    """What the same model says on this machine alone, by the same settings otherwise."""
    here = replace(started.plan.settings, devices=(), n_gpu_layers=0, tensor_split=None, repack=False)
    with Engine() as engine:
        engine.load(started.files[0], here)
        return ask(engine, question, max_tokens=24)


@linux_only
def test_a_model_too_large_for_either_lender_runs_on_both(lenders: Lenders, cache: Path, tmp_path: Path) -> None:
    """Each gets what fits there, and holds what was planned; the text is that of one machine."""
    path = write_model(tmp_path / "large.gguf", SHAPE, writes=range(300, 2000))
    empty = [(one.status().devices[0].free, resident(one)) for one in lenders]
    seen: list[float] = []
    with running(path, wished(names(lenders)), pipeline.Listener(progress=seen.append)) as started:
        text = ask(started.engine, QUESTION, max_tokens=24)
        full = [(one.status().devices[0].free, resident(one)) for one in lenders]
        pools = started.plan.forecast.pools[1:]
    assert [pool.id for pool in pools] == list(names(lenders))
    assert len(text) > 24
    assert seen == sorted(seen)
    assert all(0 < share <= 1 for share in seen)  # what takes longer than 0.1 s tells how far it is
    assert text == alone(started, QUESTION)
    for pool, (free, size), (free_now, size_now) in zip(pools, empty, full, strict=True):
        assert pool.available == free  # as the lender said, not as ggml does
        assert pool.reserve == 0  # which the lender took off already
        for held in (free - free_now, size_now - size):
            assert held == pytest.approx(pool.used.total, rel=0.01, abs=8 * MIB)
    little, more = (pool.used.total for pool in pools)
    assert 8 * MIB < little < 28 * MIB < more < 60 * MIB


def test_guide_says_the_same_on_two_lenders(lenders: Lenders, cache: Path) -> None:
    """By layers of 8 MiB there and 12 MiB here, as was asked for."""
    constraints = wished(names(lenders), (8 * MIB, 12 * MIB), n_ctx=2048)
    with running(embedded_file("Q8_0"), constraints) as started:
        text = ask(started.engine, QUESTION, max_tokens=24)
    parts = lent_parts(started.plan.forecast)
    assert [part.device for part in parts] == list(names(lenders))
    assert sorted(layer for part in parts for layer in part.layers) == list(range(5))
    assert [part.output for part in parts] == [False, True]
    assert text == alone(started, QUESTION)


def test_the_plan_names_each_lender_and_fits_the_terminal(lenders: Lenders, cache: Path, tmp_path: Path) -> None:
    devices = [f"--device={name}=12MiB" for name in names(lenders)]
    command = [sys.executable, "-P", "-m", "llmrun.cli.main", "plan", "guide", "--threads", "1", *devices]
    environment = clean_environment(tmp_path) | {KEY_FILE: os.environ[KEY_FILE]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "all layers on other machines" in done.stdout
    assert "good, all on other machines, and fast enough" in " ".join(done.stdout.split())
    assert "GPU" not in done.stdout
    for one in lenders:
        assert f"lent by {socket.gethostname()} ({one.endpoint})" in " ".join(done.stdout.split())


def test_the_figures_of_a_plan_name_each_lender(lenders: Lenders, cache: Path) -> None:
    planned = pipeline.plan(GUIDE, wished(names(lenders), [12 * MIB] * 2, n_ctx=2048))
    found = json.loads(json.dumps(plan_figures(planned.summary, planned.plan)))
    assert [part["device"] for part in found["lent"]] == list(names(lenders))
    assert {part["lender"]["link"]["measured"] for part in found["lent"]} == {True}
    assert [pool["lender"] and pool["lender"]["address"] for pool in found["pools"]] == [
        None,
        *(one.endpoint for one in lenders),
    ]
    assert sum(part["weights"] for part in found["lent"]) > 4 * MIB


def test_a_lender_that_cannot_be_had_is_named(lenders: Lenders, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = lenders[1].endpoint
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = f"127.0.0.1:{nobody.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"no lender can be reached at {gone}: Connection refused"):
        pipeline.plan(GUIDE, wished([f"rpc:{gone}"]))
    with pytest.raises(UnauthorizedError, match=f"the lender at {more} refuses: this lender asks") as none:
        ask_status(more, None)
    assert KEY_FILE in str(none.value.hint)
    with pytest.raises(UnauthorizedError, match="not by this lender's key"):
        ask_status(more, KEY + b"?")
    monkeypatch.setattr("llmrun.lenders.time.time", lambda: 1e9)
    with pytest.raises(UnauthorizedError, match="seconds off") as clock:
        ask_status(more, KEY)
    assert "clocks" in str(clock.value.hint)


@linux_only
def test_what_this_machine_had_there_is_waited_for(lenders: Lenders, cache: Path) -> None:
    """A lender that still frees what an engine of this machine held looks full until it has."""
    name = names(lenders)[0]
    settings = RunSettings(n_ctx=256, n_threads=1, n_threads_batch=1, devices=(name,), n_gpu_layers=99)
    before = lenders[0].status().devices[0].free
    engine = Engine()
    engine.load(embedded_file("Q8_0"), settings)
    assert lenders[0].status().devices[0].free < before - 4 * MIB
    ending = threading.Timer(0.4, engine.close)
    ending.start()
    found = find_lenders([name], Links(None))[lenders[0].endpoint].status
    ending.join()
    assert found is not None
    assert found.client is None


def test_a_lender_in_use_is_told_by_its_borrower(
    lenders: Lenders, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = names(lenders)[0]
    settings = RunSettings(n_ctx=256, n_threads=1, n_threads_batch=1, devices=(name,), n_gpu_layers=99)
    with Engine() as engine:
        engine.load(embedded_file("Q8_0"), settings)
        with monkeypatch.context() as hasty:
            hasty.setattr(asking, "FREEING", 0.1)
            found = find_lenders([name], Links(None))
    address = lenders[0].endpoint
    assert found[address].status is not None
    assert found[address].lender.link.measured  # all of it through the status endpoint
    error = retold(EngineError(f"{address} did not answer in 3 seconds"), found)
    assert error.message == f"the devices of {address} are lent to 127.0.0.1 just now"
    for text in ("another thing", f"{address}0 did not answer", f"1{address} did not answer"):
        other = EngineError(text)
        assert retold(other, found) is other


def test_the_wrong_port_or_number_of_a_lender_is_answered_with_the_right_one(lenders: Lenders, cache: Path) -> None:
    first = names(lenders)[0]
    host, _, port = lenders[0].endpoint.rpartition(":")
    status = f"{host}:{int(port) + 1}"
    with Engine() as engine:
        with pytest.raises(EngineError, match=f"{status} is a lender's status port") as caught:
            lent_devices(engine, [f"rpc:{status}"])
        assert caught.value.hint == f"its devices are at --device {first}"
        with pytest.raises(UsageError, match=f"no device {first}/1: that lender has {first}$") as wrong:
            lent_devices(engine, [f"{first}/1"])
        assert wrong.value.hint == f"--device {first}"


def test_a_server_of_llama_cpp_tells_nothing_and_is_used(start_rpc_server: Callable[..., str], cache: Path) -> None:
    name = start_rpc_server()
    planned = pipeline.plan(GUIDE, wished([name]))
    pool = planned.plan.forecast.pools[1]
    assert pool.lender is not None
    assert (pool.lender.host, pool.lender.keeps) == (None, None)
    assert pool.reserve > 0
    assert pool.lender.link.measured  # with the commands of its own protocol
    assert 0 < pool.lender.link.latency < 0.1
    assert any("nobody told" in line for line in lender_lines(planned.plan.forecast, name))
    assert all(len(line) <= 80 for line in lender_lines(planned.plan.forecast, name))


def test_a_link_is_measured_once_a_day(lenders: Lenders, tmp_path: Path) -> None:
    road = Road(lenders[0].endpoint, None, has_status=True, is_idle=True)
    first = Links(tmp_path).link(road)
    assert first is not None
    assert first.measured
    assert first.latency < 0.1
    assert min(first.upload, first.download) > 1e6
    assert Links(tmp_path).link(road) == first
    assert Links(tmp_path, remeasure=True).link(road) not in (None, first)
    (file,) = tmp_path.iterdir()
    known = Links(tmp_path).link(road)
    os.utime(file, (time.time() - 25 * 3600,) * 2)
    assert Links(tmp_path).link(road) not in (None, known)


@given(
    st.binary(max_size=40)
    | st.sampled_from([b"{}", b"[1]", b'{"latency": 0, "upload": 1, "download": 1}', b'{"latency": "x"}', b"[" * 99999])
)
def test_a_damaged_link_is_none(data: bytes) -> None:
    assert parse_link(data) is None


@given(*[st.floats(1e-9, 1e12)] * 3)
def test_a_remembered_link_is_what_it_was(latency: float, upload: float, download: float) -> None:
    link = Link(latency, upload, download)
    assert parse_link(json.dumps(asdict(link)).encode()) == link


def test_a_link_to_nobody_is_not_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = f"127.0.0.1:{nobody.getsockname()[1]}"
    assert measure_link(Road(gone, None, has_status=True, is_idle=True)) is None
    assert measure_link(Road(gone, None, has_status=False, is_idle=True)) is None


def test_what_is_no_lender_is_left_alone() -> None:
    for name in ("CUDA0", "none", "rpc:", "rpc:host", "rpc:host:0", "rpc:host:65535", "rpc:host:99999", "rpc:a b:1"):
        assert address_of(name) is None
        device = Device(name, "CUDA", "a card", 1, 1)
        assert told(device, {}) is device
    assert find_lenders(["CUDA0", "rpc:nonsense"], Links(None)) == {}
    assert address_of("rpc:gpu-box.lan:50052/1") == "gpu-box.lan:50052"


def test_what_is_sent_is_told_where_it_takes_a_while(lenders: Lenders, cache: Path) -> None:
    forecast = pipeline.plan(GUIDE, wished(names(lenders)[:1])).plan.forecast
    assert list(sending_lines(forecast)) == []
    host, pool = forecast.pools
    assert pool.lender is not None
    slow = replace(pool.lender, link=Link(0.02, 1.25e5, 1e6))
    (line,) = sending_lines(replace(forecast, pools=(host, replace(pool, lender=slow))))
    assert line == "sending 5.8 MB to 127.0.0.1: about 46 s at 1 Mbit/s the first time; it keeps tensors above 10 MiB"
    forgetful = replace(slow, keeps=False)
    (line,) = sending_lines(replace(forecast, pools=(host, replace(pool, lender=forgetful))))
    assert line.endswith(" at 1 Mbit/s; it keeps none of them")


def test_a_link_in_words_fits_a_line() -> None:
    assert link_text(Link(3e-4, 117e6, 12.5e6)) == "link 0.30 ms, 936 Mbit/s there and 100 Mbit/s back"
    assert link_text(Link(0.0123, 1.25e9, 2.5e4)) == "link 12.3 ms, 10.0 Gbit/s there and 0.2 Mbit/s back"
    assert link_text(USUAL_LINK).startswith("link 0.30 ms, taken to have 1 Gbit/s")
    assert max(len(link_text(link)) for link in (USUAL_LINK, Link(1e-5, 99e9, 99e9))) <= 78


def test_a_lenders_device_is_measured(start_rpc_server: Callable[..., str], cache: Path) -> None:
    """Two probes at once are on one server, which has one client; what the link takes by prediction does not count."""
    with Engine() as engine:
        (device,) = lent_devices(engine, [start_rpc_server()])
        assert device.lender is not None
        settings = RunSettings(n_threads=1, n_threads_batch=1, n_ubatch=128, devices=(device.id,))
        known = Rates(BaseCosts(*[Cost(1e-6)] * 3), attention={"f16": AttentionCost(*[Cost(1e-10)] * 3)})
        needs = Needs(frozenset({"Q8_0"}))
        found = engine.measure(Measure(needs, known, settings, size=2 * MIB, link=device.lender.link))
        engine.load(embedded_file("Q8_0"), replace(settings, n_ctx=256))  # the server is free again
    assert found is not None
    assert set(found.matrices) == {"Q8_0"}
    assert found.matrices["Q8_0"].read.seconds > 0


def test_what_a_lender_says_moves_no_cursor() -> None:
    lent = LentDevice("CUDA0", "a \x1b[2Jcard\n", "CUDA\r", "GPU", 8 * MIB, 6 * MIB)
    status = Status("0.1.0", "0.3.36", "7.0", "box", (lent,), True, "1.2.3.4\x1b[1A")
    found = {"box:50052": Found(status, Lender("box:50052", USUAL_LINK, "box", True))}
    device = told(Device("rpc:box:50052", "RPC", "RPC0", 100 * MIB, 100 * MIB), found)
    assert (device.name, device.total, device.free) == ("a ?[2Jcard?", 8 * MIB, 6 * MIB)
    assert device.backend == "RPC"  # as this engine sees it, whatever is behind
    assert device.lender is not None
    assert device.lender.backend == "CUDA?"
    assert retold(EngineError("box:50052 did not answer"), found).message.endswith("lent to 1.2.3.4?[1A just now")
    other = Device("rpc:box:50052/1", "RPC", "RPC1", 100 * MIB, 100 * MIB)  # one that the status does not know
    assert told(other, found) == replace(other, lender=found["box:50052"].lender)
