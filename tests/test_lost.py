"""Lenders that are gone: noticed within three seconds, named, survived; and those that are only slow, left in peace."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.answering import Answering
from llmrun.cli.flags import Output, Running
from llmrun.cli.lost import without_them
from llmrun.cli.running import RunningModel, wish_of
from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.engine.lost import are_there, find_lost, lenders_of
from llmrun.engine.protocol import Chunk
from llmrun.engine.refusal import lost_line
from llmrun.engine.wire import error_of, failure_of
from llmrun.errors import LenderLostError
from llmrun.planning.plan import PlanWish
from llmrun.planning.plan_file import SavedPlan
from llmrun.reference import GuideRef
from llmrun.server.families import problem_of
from llmrun.settings import Constraints, RunSettings
from scripts.terminal import Terminal
from tests.conftest import ONE_THREAD, ask, request
from tests.environments import clean_environment
from tests.lent import Lent, lender, linux_only
from tests.netns import Machine, Proxy, machines, other_machines
from tests.serving import serving

IN_TIME = 3.0  # seconds from a lender's end to the error that names it
SPLIT = replace(ONE_THREAD, n_gpu_layers=99, repack=False)
ON_ONE_MACHINE = replace(ONE_THREAD, devices=(), repack=False)


@pytest.fixture
def start_lender() -> Iterator[Callable[[], Lent]]:
    with lender() as start:
        yield start


@pytest.fixture
def make_machine() -> Iterator[Callable[[], Machine]]:
    with machines() as make:
        yield make


def loss_of(engine: Engine, strike: Callable[[], object]) -> tuple[LenderLostError, float]:
    """How an answer without end did end, and seconds since the strike, which is made while it is written."""
    answer = engine.answer(request("go", max_tokens=100_000))
    while not isinstance(next(answer), Chunk):
        pass
    strike()
    struck = time.monotonic()
    with pytest.raises(LenderLostError) as caught:
        list(answer)
    return caught.value, time.monotonic() - struck


# ---- which lender it was


def listening(backlog: int = 1) -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    return server


def test_what_the_worker_says_is_believed_and_else_each_is_asked() -> None:
    with closing(listening(5)) as here:
        there = f"rpc:127.0.0.1:{here.getsockname()[1]}"
        with closing(listening()) as nobody:
            gone = f"rpc:127.0.0.1:{nobody.getsockname()[1]}"
        assert are_there((there, gone)) == (True, False)
        assert find_lost(("loading", lost_line(there)), (there, gone)) == (there,)
        assert find_lost(("GGML_ABORT",), (there, gone)) == (gone,)
        assert find_lost((), (there, "rpc:nowhere.invalid:1")) == ("rpc:nowhere.invalid:1",)
        assert find_lost((), (there, there)) == (there, there)  # it is back: one of them it was
        assert find_lost((), (gone,)) == (gone,)


def test_the_lenders_of_devices_are_each_named_once() -> None:
    assert lenders_of(("CUDA0", "rpc:a:1", "rpc:a:1/1", "rpc:b:2/3")) == ("rpc:a:1", "rpc:b:2")


@given(
    st.lists(
        st.tuples(st.sampled_from(["CUDA0", "rpc:a:1", "rpc:a:1/1", "rpc:b:2"]), st.none() | st.integers(1, 9)),
        unique_by=lambda pair: pair[0],
        min_size=1,
    )
)
def test_what_is_wished_without_a_lender_is_the_rest_with_its_limits(pairs: list[tuple[str, int | None]]) -> None:
    names, limits = tuple(name for name, _ in pairs), tuple(limit for _, limit in pairs)
    wished = Constraints(n_ctx=512, devices=names, device_limits=limits)
    left = [(name, limit) for name, limit in pairs if not name.startswith("rpc:a:1")]
    found = wished.without(("rpc:a:1",))
    assert list(zip(found.devices or (), found.device_limits, strict=True)) == left
    assert (found.n_ctx, found.devices == ()) == (512, False)
    assert Constraints(devices=()).without(("rpc:a:1",)).devices == ()  # the CPU alone, as was said


def test_a_lender_that_is_back_is_gone_on_with() -> None:
    with closing(listening()) as back:
        lender = f"rpc:127.0.0.1:{back.getsockname()[1]}"
        found = without_them(GuideRef(None), Constraints(devices=(lender,)), PlanWish(), (lender,))
    assert (found.plan, found.constraints.devices) == (None, (lender,))
    assert found.offer() == f"{lender} can be reached again: /retry goes on with it"
    assert found.command() == f"{lender} can be reached again: repeat the command"


@linux_only
def test_of_two_lenders_the_other_one_is_kept(start_lender: Callable[[], Lent]) -> None:
    there, gone = start_lender(), start_lender()
    gone.end()
    wished = Constraints(n_ctx=512, n_threads=1, devices=(gone.id, there.id), device_limits=(6 << 30,))
    found = without_them(GuideRef(None), wished, PlanWish(), (gone.id,))
    assert (found.gone, found.constraints.devices, found.constraints.n_ctx) == ((gone.id,), (there.id,), 512)
    assert found.plan
    assert found.offer().startswith("without it: ")
    assert f" without `--device {gone.id}=6GiB`: " in found.command()


@linux_only
def test_a_plan_that_was_given_is_made_anew_without_it(start_lender: Callable[[], Lent]) -> None:
    there, gone = start_lender(), start_lender()
    gone.end()
    settings = RunSettings(n_ctx=512, n_gpu_layers=9, devices=())
    for devices, change, left in (
        ((gone.id, there.id), f"with `--device {there.id}` in place of `--plan`", (there.id,)),
        ((gone.id,), "without `--plan`", None),
    ):
        replay = SavedPlan("F16", 1, replace(settings, devices=devices))
        found = without_them(GuideRef(None), Constraints(n_threads=1), PlanWish(), (gone.id,), replay)
        assert (found.gone, found.constraints.devices) == ((gone.id,), left)
        assert found.command().startswith(f"repeat the command {change}: ")


def test_what_does_not_fit_without_it_is_said() -> None:
    wished = Constraints(n_ctx=1 << 20, n_threads=1, devices=("rpc:127.0.0.1:1",))
    wish = PlanWish(reserve_host=1 << 60)
    found = without_them(GuideRef(None), wished, wish, ("rpc:127.0.0.1:1",))
    assert found.plan is None
    assert found.offer().endswith("; when it can be reached again, /retry goes on")
    assert found.command().startswith("start `llmrun lend` there again; without it: ")


def test_what_a_server_has_lost_is_told_in_its_own_words() -> None:
    told = io.StringIO()
    model = RunningModel(wish_of("guide", Running(), Answering(), Output()), Console(err=told))
    theirs = failure_of(LenderLostError("rpc:a:1 is gone", "ask again", ("rpc:a:1",)))
    with pytest.raises(LenderLostError) as caught, model.told_without():
        raise error_of(theirs)
    assert (caught.value.message, caught.value.hint, told.getvalue()) == ("rpc:a:1 is gone", "ask again", "")


def test_clients_are_told_that_it_is_worth_asking_again() -> None:
    problem = problem_of(LenderLostError("rpc:a:1 is gone", "look there", ("rpc:a:1",)))
    assert (problem.status, problem.retry_after) == (503, 5)
    assert "rpc:a:1" in problem.message


# ---- in an answer


@linux_only
def test_of_two_lenders_the_one_that_died_is_named(start_lender: Callable[[], Lent], endless_model: Path) -> None:
    first, second = start_lender(), start_lender()
    with Engine() as engine:
        engine.load(endless_model, replace(SPLIT, devices=(first.id, second.id), tensor_split=(1, 1)))
        error, seconds = loss_of(engine, second.end)
    assert (error.lenders, error.exit_code, seconds < IN_TIME) == ((second.id,), 7, True)
    assert error.message == f"{second.id} is gone: the engine lost what was lent while it wrote the answer"
    assert error.log[-1] == lost_line(second.id)
    assert "llmrun lend" in (error.hint or "")


@linux_only
def test_one_that_dies_while_nobody_asks_is_noticed_too(start_lender: Callable[[], Lent], tiny_model: Path) -> None:
    lent = start_lender()
    with Engine() as engine:
        engine.load(tiny_model, replace(SPLIT, devices=(lent.id,)))
        lent.end()
        begun = time.monotonic()
        while not engine.has_ended:
            assert time.monotonic() - begun < IN_TIME
            time.sleep(0.02)
        with pytest.raises(LenderLostError, match=rf"{lent.id} is gone: .* while it waited"):
            ask(engine, "hi")


def test_a_slow_network_gives_the_same_text_and_a_closed_port_is_named(
    start_lender: Callable[[], Lent], guide_file: Path, guide: Engine
) -> None:
    question = "What is a KV cache?"
    with Engine() as engine:
        engine.load(guide_file, ON_ONE_MACHINE)
        alone = ask(engine, question, max_tokens=12)
    with Proxy(start_lender().id) as proxy, Engine() as engine:
        engine.load(guide_file, replace(SPLIT, devices=(proxy.id,), n_gpu_layers=2))
        proxy.rate, proxy.delay = 4e6, 0.01
        assert ask(engine, question, max_tokens=12) == alone
        proxy.close()
        with pytest.raises(LenderLostError) as caught:
            ask(engine, question)
        assert caught.value.lenders == (proxy.id,)


@other_machines
def test_a_machine_that_is_cut_off_in_an_answer_is_named_in_time(
    make_machine: Callable[[], Machine], endless_model: Path
) -> None:
    first, second = make_machine(), make_machine()
    with Engine() as engine:
        engine.load(endless_model, replace(SPLIT, devices=(first.id, second.id), tensor_split=(1, 1)))
        error, seconds = loss_of(engine, lambda: setattr(first.network, "is_cut", True))
    assert (error.lenders, seconds < IN_TIME) == ((first.id,), True)


@other_machines
def test_a_machine_far_away_that_stands_still_for_a_while_is_only_slow(
    make_machine: Callable[[], Machine], guide_file: Path
) -> None:
    with Engine() as engine:
        engine.load(guide_file, ON_ONE_MACHINE)
        alone = ask(engine, "What is VRAM?", max_tokens=3)
    machine = make_machine()
    pid = machine.lent.process.pid
    with Engine() as engine:
        engine.load(guide_file, replace(SPLIT, devices=(machine.id,), n_gpu_layers=2))
        machine.network.delay, machine.network.loss = 0.1, 0.02  # 200 ms to and fro
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(2.4, os.kill, (pid, signal.SIGCONT)).start()
        assert ask(engine, "What is VRAM?", max_tokens=3) == alone


# ---- what people see


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments, "--threads", "1"]


@linux_only
def test_the_chat_keeps_what_was_said_and_goes_on_without_it(
    start_lender: Callable[[], Lent], endless_model: Path, tmp_path: Path
) -> None:
    lent = start_lender()
    command = program("chat", str(endless_model), "--device", lent.id, "--temp", "0")
    env = {name: value for name, value in clean_environment(tmp_path).items() if name not in ("COLUMNS", "LINES")}
    with Terminal(command, env | {"TERM": "xterm-256color"}, 80, 40) as chat:
        chat.wait_for(r"^>>> ?$")
        chat.send("hello\r")
        chat.wait_for(r"tick\d+ tick", drawn=False)
        lent.end()
        chat.wait_for(r"/retry goes\s+on\s+so\)\s+>>> ?$")
        told = " ".join(chat.text().split())
        assert "(the answer breaks off here)" in told
        assert f"error: {lent.id} is gone: the engine lost what was lent while it wrote the answer" in told
        assert "without it: all layers on the CPU, context" in told
        assert max(map(len, chat.lines())) <= 80
        chat.send("/retry\r")
        chat.wait_for(r"/retry\s[\s\S]*tick\d+ tick", drawn=False)
        chat.send("\x03")
        chat.wait_for(r"\(stopped\)[\s\S]*>>> ?$")
        chat.send(f"/export md {tmp_path / 'talk.md'}\r")
        chat.wait_for(r"talk\.md[\s\S]*>>> ?$")
    assert "tick" in (tmp_path / "talk.md").read_text()


@linux_only
def test_a_single_question_ends_with_the_command_that_fits(
    start_lender: Callable[[], Lent], endless_model: Path, tmp_path: Path
) -> None:
    lent = start_lender()
    command = program("run", str(endless_model), "hello", "--device", lent.id, "--temp", "0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(tmp_path)
    ) as running:
        assert running.stdout
        assert running.stderr
        assert running.stdout.read(4) == "tick"
        lent.end()
        begun = time.monotonic()
        assert any(lent.id in line for line in running.stderr)
        assert time.monotonic() - begun < IN_TIME
        _, told = running.communicate(timeout=60)
    assert running.returncode == 7
    assert f"error: {lent.id} is gone" in told
    assert f"repeat the command without `--device {lent.id}`: all layers on the CPU" in " ".join(told.split())


@linux_only
def test_a_server_names_it_to_all_who_wait_and_goes_on_with_what_fits(
    start_lender: Callable[[], Lent], endless_model: Path, tmp_path: Path
) -> None:
    lent = start_lender()
    path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    options = ("--device", lent.id, "--threads", "1", "--parallel", "2")
    with serving(tmp_path, str(endless_model), *options) as server, ThreadPoolExecutor(1) as client:
        head = {"Content-Type": "application/json"}
        wanted = urllib.request.Request(server.url + path, json.dumps(body | {"stream": True}).encode(), head)
        with urllib.request.urlopen(wanted, timeout=60) as stream:
            while b"tick" not in stream.readline():
                pass
            os.kill(lent.process.pid, signal.SIGSTOP)  # so that nobody has a whole answer
            asked = client.submit(server.ask, path, body)
            while not re.search(r"^llmrun_slots_busy{.*} 2", server.ask("/metrics")[1], re.MULTILINE):
                assert not asked.done()
            lent.end()
            assert f"{lent.id} is gone".encode() in stream.read()
        status, told = asked.result(timeout=30)
        assert (status, f"{lent.id} is gone" in told["error"]["message"]) == (503, True)
        status, again = server.ask(path, body | {"max_tokens": 3})
        assert (status, "tick" in again["choices"][0]["message"]["content"]) == (200, True)
