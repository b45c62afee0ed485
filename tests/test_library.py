"""`import llmrun`: a model in a program, on the real engine; every example of the documents is run."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, assert_type

import psutil
import pytest

import llmrun
from llmrun.library import chat as library_chat
from llmrun.library import entry
from scripts.readme import README
from tests.environments import clean_environment
from tests.hub_server.server import HubServer
from tests.thinking_models import QWEN3, write_script

MOST_SECONDS = 0.05  # of importing the package

QUESTION = "can i run a model without a gpu?"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the library remembers, and fetches, is not the user's who runs the tests."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[llmrun.Chat]:
    with llmrun.load("guide", temperature=0) as chat:
        yield chat


@pytest.fixture
def chat(shared: llmrun.Chat) -> llmrun.Chat:
    shared.clear()
    shared.system = None
    return shared


def test_an_answer_comes_in_chunks_and_the_last_says_how_it_ended(chat: llmrun.Chat) -> None:
    chunks = list(chat.stream(QUESTION))
    assert len(chunks) > 1
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    text = "".join(chunk.text for chunk in chunks)
    assert chat.messages == (llmrun.Message("user", QUESTION), llmrun.Message("assistant", text))


def test_a_whole_answer_is_the_chunks_together(chat: llmrun.Chat) -> None:
    streamed = "".join(chunk.text for chunk in chat.stream(QUESTION))
    chat.clear()
    reply = chat.ask(QUESTION)
    assert str(reply) == reply.text == streamed
    assert reply.finish_reason == "stop"
    assert chat.stats["completion_tokens"] == reply.usage.completion_tokens > 0


def test_an_answer_is_in_the_conversation_when_its_last_chunk_is_there(chat: llmrun.Chat) -> None:
    for chunk in chat.stream(QUESTION):
        assert len(chat.messages) == (0 if chunk.finish_reason is None else 2)


def test_leaving_the_loop_ends_the_answer_and_keeps_what_was_written(chat: llmrun.Chat) -> None:
    seen = []
    for chunk in chat.stream(QUESTION):
        seen.append(chunk.text)
        break
    assert chat.messages == (llmrun.Message("user", QUESTION), llmrun.Message("assistant", seen[0]))
    assert chat.ask(QUESTION, max_tokens=3).usage.completion_tokens == 3
    assert len(chat.messages) == 4


def test_asking_anew_ends_an_answer_that_was_left_standing(chat: llmrun.Chat) -> None:
    first = chat.stream(QUESTION)
    begun = next(first).text
    chat.ask("hello", max_tokens=2)
    assert list(first) == []
    assert [message.content for message in chat.messages[:3]] == [QUESTION, begun, "hello"]
    assert len(chat.messages) == 4


def test_clearing_meanwhile_forgets_the_answer_too(chat: llmrun.Chat) -> None:
    answer = chat.stream(QUESTION)
    next(answer)
    chat.clear()
    answer.close()
    assert chat.messages == ()


def test_an_answer_that_nobody_iterates_over_was_never_asked_for(chat: llmrun.Chat) -> None:
    chat.stream(QUESTION)
    assert chat.messages == ()


def test_the_system_message_is_sent_and_stays_out_of_the_messages(chat: llmrun.Chat) -> None:
    without = chat.ask("hello", max_tokens=1).usage.prompt_tokens
    chat.clear()
    chat.system = "you know everything about running models"
    assert chat.ask("hello", max_tokens=1).usage.prompt_tokens > without
    assert [message.role for message in chat.messages] == ["user", "assistant"]


def test_a_conversation_can_be_kept_by_whoever_asks(chat: llmrun.Chat) -> None:
    own = [{"role": "system", "content": "be brief"}, {"role": "user", "content": QUESTION}]
    written = "".join(chunk.text for chunk in chat.generate(own))
    assert written
    assert chat.messages == ()
    own += [{"role": "assistant", "content": written}, {"role": "user", "content": "and on both?"}]
    usage = list(chat.generate(own, max_tokens=2))[-1].usage
    assert usage is not None
    assert usage.cached_tokens > 20  # what both have in common was not read again


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": "x", "name": "y"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "x", "thoughts": None},
    ],
)
def test_a_message_that_cannot_be_one_is_refused(chat: llmrun.Chat, message: dict[str, Any]) -> None:
    with pytest.raises(llmrun.UsageError, match="and must"):
        chat.generate([message])


def test_a_conversation_that_was_set_is_gone_on_with(chat: llmrun.Chat) -> None:
    chat.messages = ({"role": "user", "content": "hello"}, llmrun.Message("assistant", "Hello."))
    chat.ask(QUESTION, max_tokens=1)
    assert [message.content for message in chat.messages[:2]] == ["hello", "Hello."]


def test_a_conversation_longer_than_the_context_is_an_error_and_loses_nothing(chat: llmrun.Chat) -> None:
    chat.ask("hello")
    before = chat.messages
    with pytest.raises(llmrun.ContextOverflowError, match="the context holds"):
        chat.ask("word " * chat.info.n_ctx)
    assert chat.messages == before
    assert chat.ask("hello").text


def test_the_same_seed_draws_the_same_answer(chat: llmrun.Chat) -> None:
    def drawn(seed: int) -> str:
        chat.clear()
        return chat.ask("what is a KV cache?", temperature=1.5, seed=seed).text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(1, 7)}) > 1


def test_a_question_can_say_otherwise_for_itself_alone(chat: llmrun.Chat) -> None:
    assert chat.ask("hello", max_tokens=1).finish_reason == "length"
    stopped = chat.ask(QUESTION, stop="works")
    assert stopped.finish_reason == "stop"
    assert "works" not in stopped.text
    assert "works" in chat.ask(QUESTION).text


def test_a_slip_in_an_options_name_is_told_with_the_one_that_is_meant(chat: llmrun.Chat) -> None:
    with pytest.raises(TypeError, match=r"Chat\.ask\(\) got .* 'temprature'; did you mean 'temperature'\?"):
        chat.ask("hello", temprature=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'gpu_layer'; did you mean 'gpu_layers'"):
        llmrun.load("guide", gpu_layer=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        {"ctx": 0},
        {"ctx": 2.5},
        {"gpu_layers": -1},
        {"kv_type": "q9"},
        {"threads": 10_000},
        {"speculate": 64},
        {"speculate": "much"},
        {"device": ["none", "CUDA0"]},
        {"prefer": "best"},
        {"reserve": "2G"},
        {"device_reserve": -1},
        {"temperature": -1},
        {"max_tokens": 0},
        {"stop": [1]},
        {"think": "much"},
        {"schema": {"type": "object"}, "grammar": 'root ::= "a"'},
        {"schema": {"type": "number"}, "stop": "1"},
        {"grammar": "root ::= nothing"},
        {"lora": "style.gguf:0"},
        {"require_gpu": True, "device": "none"},
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_started(options: dict[str, object]) -> None:
    before = len(psutil.Process().children())
    with pytest.raises(llmrun.UsageError):
        llmrun.load("guide", **options)  # type: ignore[arg-type]
    assert len(psutil.Process().children()) == before


def test_an_answer_can_be_held_to_a_schema(chat: llmrun.Chat) -> None:
    schema = {
        "type": "object",
        "properties": {"fits": {"type": "boolean"}, "gib": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["fits", "gib"],
        "additionalProperties": False,
    }
    reply = chat.ask("does a 7B model fit into 8 GiB?", schema=schema)
    assert reply.finish_reason == "stop"
    found = json.loads(reply.text)
    assert found.keys() == {"fits", "gib"}
    assert chat.ask("yes or no?", grammar='root ::= "yes" | "no"').text in {"yes", "no"}


def test_thoughts_are_told_apart_and_kept_beside_the_answer(tmp_path: Path) -> None:
    model = write_script(tmp_path / "thinker.gguf", QWEN3, ["<think>", "Hm", "...", "</think>", "\n\n", "Yes", "!!"])
    with llmrun.load(model, temperature=0, threads=1, think="on") as chat:
        reply = chat.ask("is it?")
        assert (reply.thoughts, reply.text) == ("Hm...", "Yes!!")
        assert chat.messages[-1] == llmrun.Message("assistant", "Yes!!", "Hm...")
        with pytest.raises(llmrun.UsageError, match="high"):
            chat.stream("is it?", think="high")


def test_a_model_that_cannot_think_is_told_so_and_leaves_no_process() -> None:
    before = len(psutil.Process().children())
    with pytest.raises(llmrun.UsageError, match="does not think"):
        llmrun.load("guide", think="on")
    assert len(psutil.Process().children()) == before


def test_a_picture_that_is_none_is_refused(chat: llmrun.Chat, tmp_path: Path) -> None:
    with pytest.raises(llmrun.NotFoundError):
        chat.stream("what is this?", [tmp_path / "nowhere.png"])
    with pytest.raises(llmrun.UsageError):
        chat.ask("what is this?", [Path(__file__)])
    assert chat.messages == ()


def test_the_options_are_those_of_the_command_line() -> None:
    plan = llmrun.plan("guide", ctx=1024, kv_type="Q8_0", threads=1, device="none", reserve="1GiB")
    settings = plan.settings
    assert (plan.n_ctx, settings.type_k, settings.n_threads, settings.devices) == (1024, "q8_0", 1, ())
    assert plan.pools[0].reserve == 1 << 30
    assert {reason.setting: reason.cause for reason in plan.reasons}["n_ctx"] == "USER"


def test_a_plan_has_its_figures_by_name_and_as_text() -> None:
    plan = llmrun.plan("guide", on="ram=16GiB,vram=8GiB")
    assert plan.where == "devices"
    assert plan.is_here
    assert plan.memory == sum(pool.needed for pool in plan.pools)
    assert plan.tokens_per_second is not None
    assert plan.quant in str(plan)
    assert max(map(len, str(plan).splitlines())) <= 80


def test_a_chat_tells_of_its_model_and_leaves_no_process(guide_file: Path) -> None:
    heard: list[llmrun.Progress] = []
    plans: list[llmrun.ModelPlan] = []
    before = len(psutil.Process().children())
    with llmrun.load(guide_file, ctx=512, threads=1, on_progress=heard.append, on_plan=plans.append) as chat:
        assert chat.info.n_ctx == chat.plan.n_ctx == 512
        assert repr(chat) == f"<Chat with {guide_file}, Q8_0, 0 messages>"
        assert [plan.plan for plan in plans] == [chat.plan.plan]
    assert {step.stage for step in heard} <= {"load"}
    assert len(psutil.Process().children()) == before
    with pytest.raises(llmrun.UsageError, match="closed"):
        chat.ask("hello")


def test_an_engine_that_dies_is_an_error_and_the_conversation_can_be_taken_on() -> None:
    with llmrun.load("guide", temperature=0, threads=1) as chat:
        chat.ask("hello")
        psutil.Process(chat._started.engine.pid).kill()
        with pytest.raises(llmrun.WorkerDiedError):
            chat.ask(QUESTION)
        assert len(chat.messages) == 2


FETCHING = """
import json, llmrun
heard = []
try:
    llmrun.load("guide/guide-GGUF:Q8_0", offline=True)
except llmrun.HubError as error:
    print(json.dumps(error.message))
with llmrun.load("guide/guide-GGUF:Q8_0", threads=1, on_progress=heard.append) as chat:
    print(json.dumps(chat.ask("hello", max_tokens=2).text))
print(json.dumps([step.part for step in heard if step.stage == "fetch"]))
"""


def test_a_model_is_fetched_with_its_progress_told_and_offline_it_is_not(hub: HubServer, tmp_path: Path) -> None:
    """In a process of its own: the Hub's client reads its address once, when it is imported."""
    env = clean_environment(tmp_path) | {"HF_ENDPOINT": hub.url}
    done = subprocess.run([sys.executable, "-P", "-c", FETCHING], env=env, capture_output=True, text=True, check=True)
    refused, answer, fetched = map(json.loads, done.stdout.splitlines())
    assert refused
    assert answer
    assert fetched == sorted(fetched)
    assert fetched[-1] == 1.0


def test_the_name_of_the_hardware_is_a_room_and_can_be_called() -> None:
    assert import_module("llmrun.hardware") is vars(llmrun)["hardware"]
    assert_type(llmrun.hardware(), llmrun.Hardware)
    assert isinstance(llmrun.hardware(), llmrun.Hardware)


def test_type_checkers_see_what_there_is(chat: llmrun.Chat) -> None:
    assert (Path(llmrun.__file__).parent / "py.typed").exists()
    for chunk in chat.stream("hello"):
        assert_type(chunk, llmrun.Chunk)
    assert_type(chat.ask("hello"), llmrun.Reply)
    assert_type(chat.messages, tuple[llmrun.Message, ...])


@pytest.mark.parametrize("text", [3, None, b"hi", ["hi"]])
def test_a_question_that_is_no_text_is_refused_and_the_chat_goes_on(chat: llmrun.Chat, text: Any) -> None:
    with pytest.raises(llmrun.UsageError, match="must be a text"):
        chat.ask(text)
    assert chat.ask("hello", max_tokens=2).text


def test_importing_the_package_takes_no_time() -> None:
    """Of the processor: what a busy machine adds is not the package's."""
    code = "import time; t = time.process_time(); import llmrun; print(time.process_time() - t)"
    took = [float(subprocess.check_output([sys.executable, "-P", "-c", code])) for _ in range(5)]
    assert min(took) < MOST_SECONDS


@pytest.mark.parametrize("module", [entry, library_chat])
def test_the_examples_in_the_docstrings_are_true(module: object) -> None:
    examples = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert examples
    for test in examples:
        said = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test, out=said.write).failed == 0, said.getvalue()


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_examples_in_the_readme_run() -> None:
    """Each after the others, as somebody types them who reads from top to bottom."""
    names: dict[str, object] = {}
    for block in python_blocks(README):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(block, str(README), "exec"), names)
        assert said.getvalue(), block


def test_no_engine_is_left_where_who_is_told_of_a_note_raises() -> None:
    before = {child.pid for child in psutil.Process().children()}

    def raising(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="tokens is more than"):
        llmrun.load("guide", ctx=4096, on_note=raising)
    assert {child.pid for child in psutil.Process().children()} <= before
