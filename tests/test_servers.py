"""A running server from the outside: `ps`, `stop`, and `run` through it; two processes and the real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, PrefillProgress
from llmrun.engine.remote import RemoteEngine
from llmrun.errors import ContextOverflowError, EngineError, NotFoundError, ServerGoneError, UsageError
from llmrun.servers import control
from llmrun.servers.client import ServerClient
from llmrun.servers.control import Status
from llmrun.servers.finding import find_model
from llmrun.servers.note import Note, read_notes
from tests.conftest import GREEDY, figures, request
from tests.environments import clean_environment
from tests.serving import Server, serving

QUESTION = "what is vram"
Program = Callable[..., subprocess.CompletedProcess[str]]


def program(home: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real program beside a server: in its home, without a terminal."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(home) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "guide", "--threads", "1") as running:
        yield running


@pytest.fixture
def note(server: Server, monkeypatch: pytest.MonkeyPatch) -> Note:
    """What the server left, as this process finds it."""
    return note_of(server, monkeypatch)


def note_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> Note:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.home / "runtime"))
    (found,) = read_notes()
    return found


@pytest.fixture
def remote(note: Note) -> Iterator[RemoteEngine]:
    """The server's guide as an engine."""
    with RemoteEngine(ServerClient(note), "guide") as engine:
        yield engine


# ---- ps


def test_ps_shows_what_runs(server: Server) -> None:
    shown = figures(program(server.home, "ps", "--json"))["servers"]
    assert [(one["address"], one["pid"]) for one in shown] == [(server.url, server.process.pid)]
    (loaded,) = shown[0]["loaded"]
    assert (loaded["name"], loaded["quant"], loaded["n_ctx"], loaded["busy"]) == ("guide", "Q8_0", 2048, 0)
    assert loaded["memory"] > 1 << 20
    told = program(server.home, "ps").stdout
    assert server.url in told
    assert "guide" in told
    assert "Q8_0" in told
    assert max(map(len, told.splitlines())) <= 80


def test_the_key_is_told_to_nobody(server: Server, note: Note) -> None:
    told = program(server.home, "ps", "--json").stdout + program(server.home, "ps").stdout
    assert note.key not in told


def test_where_nothing_runs_ps_says_how_to_begin(llmrun: Program) -> None:
    done = llmrun("ps")
    assert (done.returncode, done.stdout) == (0, "")
    assert "`llmrun serve`" in done.stderr
    assert figures(llmrun("ps", "--json")) == {"servers": []}


def test_a_server_that_is_stopped_dead_holds_ps_up_no_longer_than_it_must(server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        (shown,) = figures(program(server.home, "ps", "--json"))["servers"]
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert "does not answer" in shown["trouble"]


# ---- run through it


def test_run_uses_the_server_and_answers_the_same(server: Server) -> None:
    through = program(server.home, "run", "guide", QUESTION, "--temp", "0")
    alone = program(server.home, "run", "guide", QUESTION, "--temp", "0", "--no-server", "--threads", "1")
    assert through.stderr == f"using the server at {server.url}\n"
    assert "server" not in alone.stderr
    assert (through.returncode, through.stdout) == (0, alone.stdout)
    assert "card" in through.stdout


def test_quiet_says_nothing_of_it_and_json_has_all_there_is(server: Server) -> None:
    done = program(server.home, "run", "guide", QUESTION, "--temp", "0", "--json", "--quiet", "--seed", "7")
    assert done.stderr == ""
    answer = figures(done)
    assert answer["model"] == "guide"
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 5
    assert answer["sampling"]["seed"] == 7


def test_what_asks_for_another_plan_is_loaded_here(server: Server) -> None:
    done = program(server.home, "run", "guide", QUESTION, "--temp", "0", "--ctx", "512", "--threads", "1")
    assert f"loading it here: --ctx 512 is not how the server at {server.url} runs it" in done.stderr
    assert "card" in done.stdout


def test_what_asks_for_the_plan_there_is_does_not_contradict(server: Server) -> None:
    done = program(server.home, "run", "guide", QUESTION, "--threads", "1", "--ctx", "2048", "-n", "4")
    assert done.stderr.startswith(f"using the server at {server.url}")


def test_the_quantization_that_the_server_chose_is_the_model_it_has(server: Server) -> None:
    done = program(server.home, "run", "guide:q8_0", QUESTION, "-n", "4")
    assert done.stderr.startswith(f"using the server at {server.url}")


def test_a_model_that_no_server_has_is_loaded_here(server: Server) -> None:
    done = program(server.home, "run", "guide:F16", QUESTION, "--temp", "0", "--threads", "1")
    assert "server" not in done.stderr
    assert "card" in done.stdout


def test_a_file_is_found_under_whichever_path_it_is_named(tmp_path: Path, endless_model: Path) -> None:
    link = tmp_path / "mine.gguf"
    link.symlink_to(endless_model)
    with serving(tmp_path, str(link), "--threads", "1") as running:
        done = program(tmp_path, "run", "./mine.gguf", "hello", "-n", "3", "--temp", "0", cwd=tmp_path)
        assert f"using the server at {running.url}" in done.stderr
        assert done.stdout.startswith("tick")


# ---- as an engine


def events(engine: Engine | RemoteEngine, wanted: Generate) -> list[Chunk | PrefillProgress]:
    return list(engine.answer(wanted))


def test_every_event_of_an_engine_comes_through(remote: RemoteEngine, guide: Engine) -> None:
    wanted = request("x1 " * 300 + QUESTION, max_tokens=8)
    here, there = events(guide, wanted), events(remote, wanted)
    texts = [[event.text for event in found if isinstance(event, Chunk)] for found in (here, there)]
    assert "".join(texts[0]) == "".join(texts[1]) != ""
    assert isinstance(there[0], PrefillProgress)
    last = there[-1]
    assert isinstance(last, Chunk)
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    assert last.usage.prompt_tokens == guide.count(wanted.messages).total == remote.count(wanted.messages).total


def test_it_says_of_the_model_what_an_engine_says(remote: RemoteEngine, guide: Engine) -> None:
    assert remote.info is not None
    assert guide.info is not None
    for name in ("name", "architecture", "template", "sampling", "thinking", "n_params"):
        assert getattr(remote.info, name) == getattr(guide.info, name)
    assert remote.served.plan.quant == "Q8_0"
    assert remote.served.summary.architecture == guide.info.architecture


def test_errors_of_the_engine_are_what_they_are_there(remote: RemoteEngine) -> None:
    with pytest.raises(ContextOverflowError, match="tokens"):
        events(remote, request("x1 " * 4000))
    assert not remote.has_ended
    assert events(remote, request(QUESTION))


def test_a_model_that_the_server_has_not_is_no_model(note: Note) -> None:
    with pytest.raises(NotFoundError):
        RemoteEngine(ServerClient(note), "qwen3:0.6b")


def test_what_is_drawn_by_chance_can_be_drawn_again(remote: RemoteEngine) -> None:
    wanted = replace(request("write something", max_tokens=12), sampling=replace(GREEDY, temperature=1.5))
    first = events(remote, wanted)
    last = first[-1]
    assert isinstance(last, Chunk)
    assert last.usage is not None
    again = replace(wanted, sampling=replace(wanted.sampling, seed=last.usage.seed))
    assert text_of(events(remote, again)) == text_of(first)


def text_of(found: list[Chunk | PrefillProgress]) -> str:
    return "".join(event.text for event in found if isinstance(event, Chunk))


# ---- what an endless answer shows


@pytest.fixture
def endless(tmp_path: Path, endless_model: Path) -> Iterator[Server]:
    """A server whose model writes until it is stopped, up to a long context."""
    with serving(tmp_path, str(endless_model), "--threads", "1", "--ctx", "8192") as running:
        yield running


def attached(server: Server, model: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteEngine:
    note_of(server, monkeypatch)
    found = find_model(str(model))
    assert found is not None
    return RemoteEngine(found.client, found.name)


def is_busy(note: Note) -> bool:
    status = ServerClient(note).ask(control.STATUS, Status)
    return any(model.busy for model in status.loaded)


def test_a_cancelled_answer_ends_here_and_there(
    endless: Server, endless_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(attached(endless, endless_model, monkeypatch)) as engine:
        answer = engine.answer(request("hello"))
        text = ""
        while text.count("tick") < 3:
            event = next(answer)
            text += event.text if isinstance(event, Chunk) else ""
        answer.cancel()
        *_, last = answer
        assert isinstance(last, Chunk)
        assert last.finish_reason == "cancelled"
        assert last.usage is not None
        assert last.usage.prompt_tokens == engine.count(request("hello").messages).total
        assert 3 <= last.usage.completion_tokens < 500
        note = note_of(endless, monkeypatch)
        while is_busy(note):  # the test's own time limit is the end of patience
            pass
        assert next(iter(engine.answer(request("hello", max_tokens=1))))


def test_a_server_that_dies_in_an_answer_is_said_to_be_gone(
    endless: Server, endless_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = attached(endless, endless_model, monkeypatch)
    answer = engine.answer(request("hello"))
    while not isinstance(next(answer), Chunk):
        pass
    endless.process.kill()
    with pytest.raises(ServerGoneError, match="in the middle of an answer"):
        for _ in answer:
            pass
    assert engine.has_ended
    endless.process.wait()
    with pytest.raises(ServerGoneError, match="is not there any more"):
        engine.answer(request("hello"))
    assert read_notes() == ()
    assert list((endless.home / "runtime" / "llmrun" / "servers").iterdir()) == []
    assert "no server is running" in program(endless.home, "ps").stderr


# ---- who may


def test_without_the_key_nothing_is_answered(server: Server) -> None:
    for path in (control.INFO, control.ANSWER, control.COUNT, control.RELEASE, control.STOP):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
            status, answer = server.ask(path, {"model": "guide"}, headers)
            assert status == 401, (path, headers)
            assert "guide" not in json.dumps(answer)
    assert server.ask(control.STATUS)[0] == 401
    assert server.ask("/health")[0] == 200


def test_the_key_is_a_bearers_and_no_other_scheme(server: Server, note: Note) -> None:
    assert server.ask(control.STATUS, headers={"Authorization": f"Bearer {note.key}"})[0] == 200
    assert server.ask(control.STATUS, headers={"Authorization": f"Basic {note.key}"})[0] == 401


def test_a_page_of_another_origin_is_refused_even_with_the_key(server: Server, note: Note) -> None:
    headers = {"Authorization": f"Bearer {note.key}", "Origin": "http://evil.example"}
    assert server.ask(control.STOP, {}, headers)[0] == 403
    assert server.ask("/health")[0] == 200


def test_what_is_no_request_is_refused_with_the_reason(note: Note) -> None:
    with pytest.raises(UsageError, match="model"):
        ServerClient(note).ask(control.INFO, Status, {"name": 7})


def test_a_server_that_knows_no_such_key_is_not_believed(server: Server, note: Note) -> None:
    with pytest.raises(EngineError, match="401"):
        ServerClient(replace(note, key="wrong")).ask(control.STATUS, Status)


# ---- stop


def test_stop_unloads_a_model_and_the_next_request_loads_it_again(server: Server) -> None:
    done = program(server.home, "stop", "guide")
    assert (done.returncode, done.stderr) == (0, f"guide is unloaded from the server at {server.url}\n")
    assert figures(program(server.home, "ps", "--json"))["servers"][0]["loaded"] == []
    assert "not loaded" in program(server.home, "ps").stdout
    again = program(server.home, "stop", "guide")
    assert again.returncode == NotFoundError.exit_code
    assert "guide is not loaded" in again.stderr
    assert "card" in program(server.home, "run", "guide", QUESTION, "--temp", "0").stdout
    assert len(figures(program(server.home, "ps", "--json"))["servers"][0]["loaded"]) == 1


def test_of_several_servers_one_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as one, serving(tmp_path, "guide", "--threads", "1") as other:
        refused = program(tmp_path, "stop")
        assert refused.returncode == 2
        assert "--port names one, --all ends all" in refused.stderr
        port = one.url.rpartition(":")[2]
        assert program(tmp_path, "stop", "--port", port).stderr == f"the server at {one.url} has ended\n"
        assert other.process.poll() is None
        assert program(tmp_path, "stop", "--all").returncode == 0
        assert other.process.wait(timeout=20) == 0
    assert "no server is running" in program(tmp_path, "ps").stderr
    assert program(tmp_path, "stop").returncode == NotFoundError.exit_code


def test_an_answer_that_is_being_written_may_finish(
    tmp_path: Path, guide: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, "guide", "--threads", "1") as running:
        note = note_of(running, monkeypatch)
        with closing(RemoteEngine(ServerClient(note), "guide")) as engine:
            answer = engine.answer(request(QUESTION))
            first = next(answer)
            ServerClient(note).ask(control.STOP, control.Done, {})
            rest = list(answer)
        assert text_of([first, *rest]) == text_of(events(guide, request(QUESTION)))
        assert running.process.wait(timeout=20) == 0
