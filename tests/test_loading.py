"""loading: what a machine refuses is asked for again, smaller, until there is an answer or a clear error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from llmrun.engine.client import Engine
from llmrun.errors import InsufficientMemoryError, LenderLostError
from llmrun.pipeline import Listener, Started, start
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import LocalRef
from llmrun.settings import Constraints, RunSettings
from scripts.synthetic import Shape, write_model
from tests.conftest import ask
from tests.lent import Lent, lender, linux_only

MIB = 1 << 20
# 137 MiB of weights; a KV cache of 2 MiB a layer for 512 tokens and of 32 for 8192
SHAPE = Shape(n_layer=8, n_embd=1024, n_ff=4096, n_head=16, n_head_kv=16, n_ctx_train=8192)
# The reserve stays out of the way: the server says that it has all of this machine's memory, and lies.
WISH = PlanWish(reserve_host=0, reserve_device=0)

pytestmark = linux_only


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 137 MiB."""
    return write_model(tmp_path_factory.mktemp("loading") / "large.gguf", SHAPE, mix="Q8_0")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What loads leave behind is left in a folder of the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def server() -> Iterator[Lent]:
    """A server that may be maltreated."""
    with lender() as lend:
        yield lend()


def workers() -> list[psutil.Process]:
    """Running workers: those of this test, and of fixtures that last for the session."""
    return [child for child in psutil.Process().children() if "llmrun.worker" in child.cmdline()]


@dataclass
class Heard:
    """What was told of a load. at: does something at a line of the engine's log, once, while the worker is held."""

    plans: list[Plan] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    line: str = "load_tensors: loading model tensors"
    at: Callable[[psutil.Process], None] | None = None

    def listener(self) -> Listener:
        return Listener(log=self._hear, planned=lambda planned: self.plans.append(planned.plan), step=self.steps.append)

    def _hear(self, line: str) -> None:
        if self.at is None or not self.plans or self.line not in line:
            return
        strike, self.at = self.at, None
        worker = max(workers(), key=lambda child: child.create_time())
        os.kill(worker.pid, signal.SIGSTOP)
        strike(worker)
        os.kill(worker.pid, signal.SIGCONT)


def load(path: Path, heard: Heard, **fixed: object) -> Started:
    constraints = Constraints(n_threads=1, **fixed)  # type: ignore[arg-type]
    return start(LocalRef(path), constraints, WISH, heard.listener())


def answer_on_the_host(path: Path, settings: RunSettings) -> str:
    with Engine() as engine:
        engine.load(path, RunSettings(n_threads=1, n_threads_batch=1, devices=(), n_ctx=settings.n_ctx))
        return ask(engine, "hi", max_tokens=8)


@pytest.mark.parametrize(
    ("n_ctx", "room", "what"), [(512, 104 * MIB, "for weights"), (8192, 288 * MIB, "for the KV cache")]
)
def test_what_a_device_refuses_stays_on_the_host_and_the_answer_is_the_hosts(
    server: Lent, large_model: Path, n_ctx: int, room: int, what: str
) -> None:
    server.limit_memory(room)
    heard = Heard()
    started = load(large_model, heard, devices=(server.id,), n_ctx=n_ctx, type_kv="f16")
    with closing(started.engine) as engine:
        assert ask(engine, "hi", max_tokens=8) == answer_on_the_host(large_model, started.plan.settings)
    assert heard.plans[0].settings.n_gpu_layers == SHAPE.n_layer + 1
    assert 0 < (started.plan.settings.n_gpu_layers or 0) <= SHAPE.n_layer
    assert (started.plan.settings.n_ctx, started.plan.settings.type_k) == (n_ctx, "f16")
    assert 1 <= len(heard.steps) <= 2
    assert heard.steps[0].startswith(f"{server.id} did not give ")
    assert f"{what}: trying " in heard.steps[0]
    assert f"layers on {server.id} in place of {SHAPE.n_layer + 1}" in heard.steps[0]


def test_where_the_layers_are_fixed_the_kv_cache_becomes_smaller(server: Lent, large_model: Path) -> None:
    """256 MiB of f16 are refused beside the weights; 136 of q8_0 are not."""
    server.limit_memory(368 * MIB)
    heard = Heard()
    everything = SHAPE.n_layer + 1
    started = load(large_model, heard, devices=(server.id,), n_gpu_layers=everything, n_ctx=8192)
    with closing(started.engine) as engine:
        assert ask(engine, "hi", max_tokens=3)
    assert started.plan.settings.n_gpu_layers == everything
    assert started.plan.settings.type_k == "q8_0"
    assert [step.split(": trying ")[1] for step in heard.steps] == ["a KV cache of q8_0 in place of f16"]


def test_where_everything_is_fixed_the_error_comes_at_once(server: Lent, large_model: Path) -> None:
    server.limit_memory(104 * MIB)
    heard = Heard()
    everything = SHAPE.n_layer + 1
    with pytest.raises(InsufficientMemoryError) as caught:
        load(large_model, heard, devices=(server.id,), n_gpu_layers=everything, n_ctx=512, type_kv="f16")
    assert heard.steps == []
    assert caught.value.refusal is not None
    assert (caught.value.refusal.device, caught.value.refusal.what) == (server.id, "weights")
    assert caught.value.message.startswith(f"{server.id} did not give ")


def test_the_program_ends_with_the_exit_code_of_too_little_memory(
    server: Lent, large_model: Path, llmrun: Callable[..., CompletedProcess[str]]
) -> None:
    server.limit_memory(104 * MIB)
    fixed = ("--device", server.id, "-ngl", str(SHAPE.n_layer + 1), "-c", "512", "--kv-type", "f16", "-t", "1")
    done = llmrun("run", str(large_model), "hi", *fixed)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{server.id} did not give " in done.stderr
    assert "MiB for weights" in done.stderr


def test_a_worker_killed_in_a_load_is_followed_by_one_that_takes_less(large_model: Path) -> None:
    """As the system does when memory runs out."""
    heard = Heard(at=lambda worker: worker.send_signal(signal.SIGKILL))
    started = load(large_model, heard)
    with closing(started.engine) as engine:
        assert ask(engine, "hi", max_tokens=3)
    (step,) = heard.steps
    assert step.startswith("RAM did not suffice: trying ")
    before, after = (plan.forecast.pools[0].needed for plan in (heard.plans[0], started.plan))
    assert after <= before * 0.9


def test_a_server_that_is_gone_is_told_of_and_not_asked_again(server: Lent, large_model: Path) -> None:
    before = {worker.pid for worker in workers()}
    heard = Heard(at=lambda _: server.end())
    with pytest.raises(LenderLostError) as caught:
        load(large_model, heard, devices=(server.id,))
    assert (heard.steps, caught.value.lenders) == ([], (server.id,))
    assert {worker.pid for worker in workers()} <= before
