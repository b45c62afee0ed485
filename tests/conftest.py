"""What the tests share: models made on the spot, engines that are surely closed, and the real program."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from scripts.synthetic import FIRST_FILLER, TINY, write_model
from tests.environments import clean_environment
from tests.fetching import Bench, repository
from tests.hub_program import hub, many, program  # noqa: F401 - fixtures
from tests.hub_server.server import HubServer
from tests.lent import lender
from tests.model_trees import HubCache, Ollama

# A busy machine is no failure: no example has a deadline, and what fails is printed so that it can be repeated.
hypothesis.settings.register_profile("llmrun", deadline=None, print_blob=True, derandomize=True, database=None)
hypothesis.settings.load_profile("llmrun")

# Programs that are started in the background ignore these, and so would every program that a test starts and signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

GREEDY = Sampling(temperature=0)
ONE_THREAD = RunSettings(n_threads=1, n_threads_batch=1)  # the suite must not collapse where cores are busy


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1.3 million random weights: it answers nonsense, quickly."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that, asked greedily, writes "tick300 tick411 …" until it is stopped."""
    shape = replace(TINY, tied=False)
    pieces = {token: f"tick{token}Ġ" for token in range(FIRST_FILLER, shape.n_vocab)}
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    return write_model(path, shape, pieces=pieces, writes=range(FIRST_FILLER, shape.n_vocab))


@pytest.fixture(scope="session")
def guide_file() -> Path:
    """The embedded model as users get it."""
    return embedded_file("Q8_0")


@pytest.fixture
def start_engine() -> Iterator[Callable[..., Engine]]:
    """A function that loads a model; every engine it made is closed after the test."""
    engines: list[Engine] = []

    def start(path: Path, settings: RunSettings = ONE_THREAD, on_log: Callable[[str], None] | None = None) -> Engine:
        engine = Engine(on_log)
        engines.append(engine)
        engine.load(path, settings)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def guide(guide_file: Path) -> Iterator[Engine]:
    """One engine with the embedded model, for tests that only ask it something."""
    with Engine() as engine:
        engine.load(guide_file, ONE_THREAD)
        yield engine


@pytest.fixture(scope="session")
def start_rpc_server() -> Iterator[Callable[..., str]]:
    """A function that starts a server lending the CPU, in a process of its own, and returns its device's name.

    A server has one client at a time: an engine that holds a model on it must be closed before the next one asks.
    """
    with lender() as start:
        yield lambda: start().id


@pytest.fixture(scope="session")
def rpc_server(start_rpc_server: Callable[..., str]) -> str:
    """A device that is not the host: a CPU lent by another process."""
    return start_rpc_server()


@pytest.fixture(scope="session")
def other_rpc_server(start_rpc_server: Callable[..., str]) -> str:
    """A second such device."""
    return start_rpc_server()


def request(*texts: str, **options: Any) -> Generate:
    """A greedy request; the texts are question, answer, question and so on."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[index % 2], text) for index, text in enumerate(texts))
    return Generate(messages, **({"sampling": GREEDY} | options))


def chunks(engine: Engine, wanted: Generate) -> list[Chunk]:
    """All chunks of an answer."""
    return [event for event in engine.answer(wanted) if isinstance(event, Chunk)]


def ask(engine: Engine, question: str, **options: Any) -> str:
    """The greedy answer to a question."""
    return "".join(chunk.text for chunk in chunks(engine, request(question, **options)))


@pytest.fixture
def llmrun(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real program, with an empty home, and without a terminal."""

    def run(*arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean_environment(tmp_path),
            check=False,
        )

    return run


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs find the folders of models below the test's home, whatever this machine's variables say."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))


@pytest.fixture
def hub_cache(tmp_path: Path) -> HubCache:
    """The Hugging Face cache in the home of `llmrun`."""
    return HubCache(tmp_path / ".cache" / "huggingface" / "hub")


@pytest.fixture
def ollama(tmp_path: Path) -> Ollama:
    """Ollama's folder, with `own_folders`."""
    return Ollama(tmp_path / "ollama")


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object that a command printed as JSON."""
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A Hub with a small model, and a cache to fetch it into."""
    with HubServer() as server:
        server.add(repository())
        with closing(Bench(server, tmp_path / "cache")) as found:
            yield found
