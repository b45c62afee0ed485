"""engine and worker: a real llama.cpp in a real process, and what happens when either side goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmrun.engine.client import Engine
from llmrun.engine.process import WorkerProcess
from llmrun.engine.protocol import Chunk, Generate, PrefillProgress, Ready
from llmrun.errors import ContextOverflowError, EngineError, UsageError, WorkerDiedError
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.share import next_step
from scripts.synthetic import Shape, write_model
from tests.conftest import GREEDY, ONE_THREAD, ask, chunks, request
from tests.environments import clean_environment

StartEngine = Callable[..., Engine]


def test_the_embedded_model_answers_with_its_fact(guide: Engine) -> None:
    answer = ask(guide, "how much memory does a 7B model need at 4 bits?")
    assert "3.5" in answer


def test_a_loaded_model_tells_what_it_is(guide: Engine) -> None:
    info = guide.info
    assert info is not None
    assert (info.name, info.architecture, info.template, info.notice) == ("guide", "llama", "gguf", None)
    assert info.n_ctx == info.n_ctx_train
    assert 3_000_000 <= info.n_params <= 8_000_000


def test_greedy_answers_are_repeatable(guide: Engine) -> None:
    assert len({ask(guide, "what is a kv cache") for _ in range(3)}) == 1


def test_a_seed_makes_random_answers_repeatable(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)

    def answer(seed: int | None) -> str:
        return ask(engine, "hi", sampling=Sampling(temperature=1.5, seed=seed), max_tokens=20)

    assert answer(7) == answer(7)
    assert len({answer(None) for _ in range(4)}) > 1


def test_a_random_answer_tells_the_seed_that_repeats_it(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)
    first = chunks(engine, request("hi", sampling=Sampling(temperature=1.5), max_tokens=20))
    assert first[-1].usage
    again = ask(engine, "hi", sampling=Sampling(temperature=1.5, seed=first[-1].usage.seed), max_tokens=20)
    assert again == "".join(chunk.text for chunk in first)


def test_the_second_turn_reads_only_what_is_new(start_engine: StartEngine, guide_file: Path) -> None:
    engine = start_engine(guide_file)
    first = chunks(engine, request("what is a kv cache"))
    answer = "".join(chunk.text for chunk in first)
    second = chunks(engine, request("what is a kv cache", answer, "what is vram"))
    one, two = first[-1].usage, second[-1].usage
    assert one
    assert two
    assert one.cached_tokens == 0
    assert two.cached_tokens == one.prompt_tokens + one.completion_tokens
    read = two.prompt_tokens - two.cached_tokens
    assert 0 < read < 20


def test_reuse_changes_no_answer(start_engine: StartEngine, guide_file: Path) -> None:
    warm, cold = start_engine(guide_file), start_engine(guide_file)
    answer = ask(warm, "what is vram")
    turns = ("what is vram", answer, "can i run a model without a gpu")
    assert [c.text for c in chunks(warm, request(*turns))] != []
    whole = "".join(c.text for c in chunks(warm, request(*turns)))
    assert whole == "".join(c.text for c in chunks(cold, request(*turns)))


def test_an_earlier_conversation_is_reused_up_to_where_it_differs(guide: Engine) -> None:
    ask(guide, "what is a kv cache")
    last = chunks(guide, request("what is a parameter"))[-1]
    assert last.usage
    assert 0 < last.usage.cached_tokens < last.usage.prompt_tokens


def test_max_tokens_ends_an_answer(start_engine: StartEngine, endless_model: Path) -> None:
    last = chunks(start_engine(endless_model), request("hi", max_tokens=5))[-1]
    assert last.usage
    assert (last.finish_reason, last.usage.completion_tokens) == ("length", 5)


def test_a_stop_string_ends_an_answer_before_itself(guide: Engine) -> None:
    whole = ask(guide, "what is a kv cache")
    word = whole.split()[4]
    got = chunks(guide, request("what is a kv cache", stop=(word,)))
    assert "".join(chunk.text for chunk in got) == whole[: whole.index(word)]
    assert got[-1].finish_reason == "stop"


def test_the_streamed_chunks_are_the_whole_answer(guide: Engine) -> None:
    got = chunks(guide, request("what is quantization"))
    assert "".join(c.text for c in got) == ask(guide, "what is quantization")
    assert [c.finish_reason for c in got[:-1]] == [None] * (len(got) - 1)


def test_a_prompt_that_does_not_fit_is_refused_and_nothing_is_truncated(
    start_engine: StartEngine, tiny_model: Path
) -> None:
    engine = start_engine(tiny_model, replace(ONE_THREAD, n_ctx=512))
    with pytest.raises(ContextOverflowError, match="context holds 512"):
        chunks(engine, request("x" * 600))
    assert chunks(engine, request("hi", max_tokens=3))[-1].finish_reason == "length"


def test_an_answer_that_fills_the_context_says_so(start_engine: StartEngine, endless_model: Path) -> None:
    engine = start_engine(endless_model, replace(ONE_THREAD, n_ctx=300))
    last = chunks(engine, request("x" * 250))[-1]
    assert last.usage
    assert last.finish_reason == "context"
    assert last.usage.prompt_tokens + last.usage.completion_tokens == 301  # the last token needs no room


def test_a_context_of_the_wished_size_is_not_rounded(start_engine: StartEngine, tiny_model: Path) -> None:
    info = start_engine(tiny_model, replace(ONE_THREAD, n_ctx=300)).info
    assert info
    assert info.n_ctx == 300


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes tens of milliseconds a token and long for a prompt."""
    shape = Shape(n_layer=12, n_embd=1024, n_ff=4096, n_head=16, n_head_kv=16, n_ctx_train=8192)
    return write_model(tmp_path_factory.mktemp("slow") / "slow.gguf", shape)


def test_a_cancel_stops_an_answer_and_the_engine_goes_on(start_engine: StartEngine, endless_model: Path) -> None:
    engine = start_engine(endless_model)
    answer = engine.answer(request("hi"))
    seen = next(event for event in answer if isinstance(event, Chunk))
    assert seen.finish_reason is None
    answer.cancel()
    last = [event for event in answer if isinstance(event, Chunk)][-1]
    assert last.finish_reason == "cancelled"
    assert chunks(engine, request("hi", max_tokens=3))[-1].finish_reason == "length"


def test_a_cancel_stops_the_reading_of_a_prompt_in_the_middle_of_a_step(
    start_engine: StartEngine, slow_model: Path
) -> None:
    """What was read before stays read: asking again reads only the rest."""
    engine = start_engine(slow_model)
    wanted = request("word " * 1500, max_tokens=1)
    answer = engine.answer(wanted)
    progress = next(event for event in answer if isinstance(event, PrefillProgress))
    answer.cancel()
    last = [event for event in answer if isinstance(event, Chunk)][-1]
    assert last.finish_reason == "cancelled"
    again = engine.answer(wanted)
    answer_again = next(event for event in again if isinstance(event, PrefillProgress))
    again.cancel()
    assert list(again)[-1].finish_reason == "cancelled"  # type: ignore[union-attr]
    assert progress.done <= answer_again.cached < progress.total


def test_a_cancel_that_comes_too_late_harms_nothing(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)
    answer = engine.answer(request("hi", max_tokens=2))
    list(answer)
    answer.cancel()
    assert chunks(engine, request("hi", max_tokens=3))[-1].finish_reason == "length"


def test_progress_of_a_long_prompt_counts_up_to_its_end(start_engine: StartEngine, slow_model: Path) -> None:
    engine = start_engine(slow_model)
    events = list(engine.answer(request("word " * 200, max_tokens=1)))
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    last = events[-1]
    assert isinstance(last, Chunk)
    assert last.usage
    assert progress
    assert [p.done for p in progress] == sorted({p.done for p in progress})
    assert {p.total for p in progress} == {last.usage.prompt_tokens}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_worker_that_dies_in_an_answer_becomes_an_error_with_its_last_words(
    start_engine: StartEngine, endless_model: Path, number: signal.Signals
) -> None:
    engine = start_engine(endless_model, replace(ONE_THREAD, n_ctx=8192))
    answer = engine.answer(request("hi"))
    next(answer)
    os.kill(engine.pid, number)
    with pytest.raises(WorkerDiedError, match=rf"{number.name}\) while it wrote the answer") as caught:
        list(answer)
    assert caught.value.log
    assert caught.value.exit_code == 7


def test_after_its_death_every_question_gets_the_same_error(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)
    os.kill(engine.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(WorkerDiedError):
            list(engine.answer(request("hi")))


def test_closing_ends_the_worker_even_in_an_answer(endless_model: Path) -> None:
    engine = Engine()
    engine.load(endless_model, replace(ONE_THREAD, n_ctx=8192))
    next(engine.answer(request("hi")))
    pid = engine.pid
    engine.close()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_orphan_is_left_when_the_parent_dies(endless_model: Path, tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "from llmrun.engine.client import Engine; from pathlib import Path; from tests.conftest import *\n"
        # nohup, for one, lets all it starts ignore a hang-up
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"e = Engine(); e.load(Path({str(endless_model)!r}), replace(ONE_THREAD, n_ctx=8192))\n"
        "a = e.answer(request('hi')); next(a); print(e.pid, flush=True); list(a); list(iter(int, 1))"
    ).replace("import *", "import ONE_THREAD, request; from dataclasses import replace")
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(number)
        parent.wait(timeout=10)
        worker.wait(timeout=5)  # raises where it lives on
    assert not worker.is_running()


def test_the_worker_ignores_ctrl_c(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)
    os.kill(engine.pid, signal.SIGINT)
    assert chunks(engine, request("hi", max_tokens=3))[-1].finish_reason == "length"


@pytest.mark.skipif(sys.platform != "linux", reason="oom_score_adj is Linux's")
def test_the_worker_is_offered_to_the_oom_killer_first(start_engine: StartEngine, tiny_model: Path) -> None:
    pid = start_engine(tiny_model).pid
    score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    assert score > int(Path("/proc/self/oom_score_adj").read_text())


def test_the_log_of_llama_cpp_reaches_whoever_wants_it(start_engine: StartEngine, tiny_model: Path) -> None:
    lines: list[str] = []
    start_engine(tiny_model, on_log=lines.append)
    assert any("llama_model_loader" in line for line in lines)


def test_a_file_in_the_current_directory_takes_no_modules_place(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("json.py", "queue.py", "llmrun.py", "jinja2.py"):
        (tmp_path / name).write_text("raise SystemExit('planted')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", "run", str(tiny_model), "hi", "-n", "2", "--temp", "0"],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "planted" in done.stderr) == (0, False)


def test_asking_before_loading_is_an_error_and_not_a_hang() -> None:
    with Engine() as engine, pytest.raises(EngineError, match="no model is loaded"):
        list(engine.answer(Generate((), GREEDY)))


def test_one_worker_holds_one_model(start_engine: StartEngine, tiny_model: Path) -> None:
    engine = start_engine(tiny_model)
    with pytest.raises(EngineError, match="holds one"):
        engine.load(tiny_model, RunSettings())


def test_a_cancel_may_come_from_another_thread(start_engine: StartEngine, endless_model: Path) -> None:
    engine = start_engine(endless_model, replace(ONE_THREAD, n_ctx=8192))
    answer = engine.answer(request("hi"))
    next(answer)
    thread = threading.Thread(target=answer.cancel)
    thread.start()
    last = list(answer)[-1]
    thread.join()
    assert isinstance(last, Chunk)
    assert last.finish_reason == "cancelled"


def test_a_cancel_breaks_off_the_computation_of_a_step(start_engine: StartEngine, slow_model: Path) -> None:
    """The whole prompt is one step here: had it been finished, all of it would be in memory afterwards."""
    engine = start_engine(slow_model, replace(ONE_THREAD, n_batch=2048, n_ubatch=2048))
    wanted = request("word " * 390, max_tokens=1)
    answer = engine.answer(wanted)
    answer.cancel()
    last = list(answer)[-1]
    assert isinstance(last, Chunk)
    assert last.usage
    assert (last.finish_reason, last.usage.read_tokens) == ("cancelled", 0)
    again = chunks(engine, wanted)[-1]
    assert again.usage
    assert again.usage.cached_tokens < again.usage.prompt_tokens - 1


def test_an_answer_that_was_left_unread_is_not_taken_for_the_next(guide: Engine) -> None:
    expected = ask(guide, "what is vram")
    for event in guide.answer(request("what is a kv cache")):
        if isinstance(event, Chunk):
            break
    assert ask(guide, "what is vram") == expected


def test_bytes_that_are_no_message_end_the_worker() -> None:
    worker = WorkerProcess()
    assert isinstance(worker.receive(), Ready)
    stdin = worker._process.stdin
    assert stdin
    stdin.write(b"\0\0\0\x05hello")
    stdin.flush()
    with pytest.raises(WorkerDiedError):
        worker.receive()
    worker.close()


def test_text_that_is_no_text_is_refused_and_nothing_hangs(guide: Engine) -> None:
    with pytest.raises(UsageError, match="not text"):
        guide.answer(request("\udcff"))
    assert ask(guide, "what is vram")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only text for names")
def test_a_file_name_need_not_be_text(start_engine: StartEngine, tiny_model: Path, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf"))
    path.symlink_to(tiny_model)
    assert chunks(start_engine(path), request("hi", max_tokens=1))[-1].finish_reason == "length"


def test_a_worker_killed_while_it_prepares_a_prompt_is_no_fault_of_the_template(
    start_engine: StartEngine, tiny_model: Path
) -> None:
    engine = start_engine(tiny_model)
    answer = engine.answer(request("x" * 4_000_000))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        list(answer)
    assert engine.has_ended


def test_a_log_listener_that_fails_does_not_stop_the_engine(start_engine: StartEngine, tiny_model: Path) -> None:
    def fail(line: str) -> None:
        raise BrokenPipeError(line)

    assert chunks(start_engine(tiny_model, on_log=fail), request("hi", max_tokens=1))[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("n_tokens", "seconds", "expected"),
    [(32, 0.1, 128), (32, 1.0, 64), (32, 0.5, 64), (128, 1.0, 128), (128, 9.0, 64), (5, 0.0, 128)],
)
def test_a_step_of_reading_takes_about_a_second_or_is_a_tile_of_flash_attention(
    n_tokens: int, seconds: float, expected: int
) -> None:
    assert next_step(n_tokens, seconds, 128) == expected


def test_an_engine_that_was_closed_has_ended(start_engine: Callable[..., Engine], guide_file: Path) -> None:
    engine = start_engine(guide_file, ONE_THREAD)
    assert not engine.has_ended
    engine.close()
    assert engine.has_ended
