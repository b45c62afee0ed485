"""Many answers at once: each is what it is alone, whoever else is asking."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.protocol import Generate, Grammar
from llmrun.message import RawPrompt
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.llama import Model
from llmrun.worker.share import PORTION, share
from scripts.synthetic import FIRST_FILLER, LETTERS, RECURRENT, SLIDING, TINY, write_model
from tests.batches import Batch, Heard, batch, loaded
from tests.conftest import GREEDY, ONE_THREAD, request
from tests.thinking_models import QWEN3, write_script

N_SLOTS = 8
N_CTX = 512  # of each
# What guide answers without hesitation: in none of these answers, alone, a second token comes near the first.
QUESTIONS = (
    "how much memory does a 7B model need at 4 bits?",
    "can i run a model without a gpu",
    "tell me about the history of france",
    "hello",
    "What is quantization?",
    "What does Q4_K_M mean?",
    "How do I use my GPU?",
    "How do I stop the answer?",
    "What is a token?",
    "What is the context?",
    "What is temperature?",
    "How can I make it faster?",
    "Does it work without the internet?",
    "What is flash attention?",
    "How much memory do I need?",
    "What is mmap?",
    "What is a LoRA adapter?",
    "How do I see the plan?",
    "What is prefill?",
    "What is min-p?",
    "Hello!",
    "What is top-k?",
    "What is top-p?",
    "What is a chat template?",
)
Open = Callable[..., AbstractContextManager[Batch]]


def settings(n_slots: int = N_SLOTS, n_ctx: int = N_CTX, **more: Any) -> RunSettings:
    options = {"n_ctx": n_slots * n_ctx, "n_seq_max": n_slots, "n_outputs_max": n_slots} | more
    return replace(ONE_THREAD, **options)


def raw(text: str, **options: Any) -> Generate:
    return Generate((), GREEDY, raw=RawPrompt(text), **({"max_tokens": 16} | options))


@pytest.fixture(scope="module")
def guide_model(guide_file: Path) -> Iterator[Model]:
    with loaded(guide_file, ONE_THREAD) as model:
        yield model


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Model]:
    with loaded(tiny_model, ONE_THREAD) as model:
        yield model


@pytest.fixture(scope="module")
def endless(endless_model: Path) -> Iterator[Model]:
    with loaded(endless_model, ONE_THREAD) as model:
        yield model


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model that repeats the last letter it read, for ever."""
    path = tmp_path_factory.mktemp("models") / "echo.gguf"
    write_model(path, replace(TINY, tied=False), chain={letter: letter for letter in LETTERS})
    with loaded(path, ONE_THREAD) as model:
        yield model


@pytest.fixture(params=[False, True], ids=["streams", "unified"])
def open_batch(request: pytest.FixtureRequest) -> Open:
    """A batch whose sequences have cells of their own, and one in which they share them."""

    def start(model: Model, *sizes: int, **more: Any) -> AbstractContextManager[Batch]:
        return batch(model, settings(*sizes, kv_unified=request.param, **more))

    return start


@pytest.fixture(scope="module")
def alone(guide_model: Model) -> dict[str, str]:
    """Greedy answers, each of a model that nobody else is asking and that has read nothing before."""
    found = {}
    for question in QUESTIONS:
        with batch(guide_model, settings(1)) as one:
            found[question] = one.answers(request(question, max_tokens=48))[0].text
    return found


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_under_load_is_the_answer_alone(
    seed: int, open_batch: Open, guide_model: Model, alone: dict[str, str]
) -> None:
    """In any order, begun at any time, whoever goes away meanwhile."""
    rng = random.Random(seed)
    order = rng.sample(QUESTIONS, len(QUESTIONS))
    heard: dict[str, Heard] = {}
    with open_batch(guide_model) as many:
        while order or many.batcher.has_work:
            for question in [order.pop() for _ in range(rng.randrange(3)) if order]:
                heard[question] = many.submit(request(question, max_tokens=48), owner=rng.choice("ab"))
            if rng.random() < 0.1:
                many.submit(request(rng.choice(QUESTIONS)))
                many.batcher.withdraw(rng.randrange(1, 40))
            many.batcher.step()
    left = [one for one in heard.values() if one.last.finish_reason != "cancelled"]
    assert len(left) > len(QUESTIONS) / 2
    assert {q: h.text for q, h in heard.items() if h in left} == {q: alone[q] for q, h in heard.items() if h in left}
    assert all(alone[question].startswith(one.text) for question, one in heard.items())


def test_nothing_of_one_answer_is_in_another(open_batch: Open, echo: Model) -> None:
    """Each asks for its own letter, and slots are taken over again and again."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    rng = random.Random(1)
    with open_batch(echo, 4, 256) as many:
        heard = [(c, many.submit(raw(c * rng.randrange(1, 90), max_tokens=rng.randrange(1, 30)))) for c in letters * 3]
        many.finish()
    assert all(one.text == letter * one.job.request.max_tokens for letter, one in heard if one.job.request.max_tokens)


def test_an_answer_differs_only_where_two_tokens_were_nearly_alike(open_batch: Open, endless: Model) -> None:
    """Rounding depends on the shape of a batch; a model of random weights shows what that can do."""
    wishes = [request(f"{number} " * (1 + number), max_tokens=24, logprobs=2) for number in range(16)]
    apart = []
    for wish in wishes:
        with batch(endless, settings(1)) as one:
            apart.append(one.answers(wish)[0].drawn)
    with open_batch(endless) as many:
        together = [heard.drawn for heard in many.answers(*wishes)]
    for ours, theirs in zip(apart, together, strict=True):
        assert ours
        pairs = zip(ours, theirs, strict=False)
        first = next((a for a, b in pairs if a.chosen.token != b.chosen.token), None)
        assert first is None or first.top[0].logprob - first.top[1].logprob < 0.3


def test_a_long_prompt_stalls_nobody(open_batch: Open, echo: Model) -> None:
    """Each step of its reading is a token of everybody else's answer."""
    with open_batch(echo, 4, 1024, n_batch=64, n_ubatch=64) as many:
        writers = [many.submit(raw(letter, max_tokens=None)) for letter in "abc"]
        many.batcher.step()
        long = many.submit(raw("z" * 900, max_tokens=1))
        steps = many.batcher.n_steps
        while not long.is_over:
            before = [writer.n_written for writer in writers]
            many.batcher.step()
            assert [writer.n_written for writer in writers] == [n + 1 for n in before]
        assert many.batcher.n_steps - steps >= 900 // 64
        for number in range(1, 4):
            many.batcher.withdraw(number)
    assert long.text == "z"


def test_a_short_prompt_does_not_wait_for_a_long_one(open_batch: Open, echo: Model) -> None:
    with open_batch(echo, 2, 1024, n_batch=64, n_ubatch=64) as many:
        long = many.submit(raw("z" * 900, max_tokens=1))
        many.batcher.step()
        short = many.submit(raw("a" * 40, max_tokens=1))
        for _ in range(2):
            many.batcher.step()
        assert short.text == "a"
        assert not long.is_over
        many.finish()


def test_who_is_withdrawn_frees_its_slot_at_once(open_batch: Open, echo: Model) -> None:
    with open_batch(echo, 1) as one:
        endless, waiting = one.submit(raw("a", max_tokens=None)), one.submit(raw("b", max_tokens=2))
        for _ in range(5):
            one.batcher.step()
        assert not waiting.events
        one.batcher.withdraw(1)
        assert endless.last.finish_reason == "cancelled"
        one.batcher.step()
        assert waiting.text == "b"
        one.finish()
    assert waiting.last.finish_reason == "length"
    assert endless.text == "a" * 5


def test_who_waits_can_be_withdrawn_too(open_batch: Open, echo: Model) -> None:
    with open_batch(echo, 1) as one:
        first, second, third = (one.submit(raw(letter, max_tokens=3)) for letter in "abc")
        one.batcher.withdraw(2)
        assert second.last.finish_reason == "cancelled"
        one.finish()
    assert (first.text, second.text, third.text) == ("aaa", "", "ccc")


def test_slots_are_given_in_the_order_of_asking(open_batch: Open, echo: Model) -> None:
    over: list[str] = []
    with open_batch(echo, 2) as two:
        heard = {letter: two.submit(raw(letter, max_tokens=4)) for letter in "abcdef"}
        while two.batcher.has_work:
            two.batcher.step()
            over += [letter for letter, one in heard.items() if one.is_over and letter not in over]
    assert over == list("abcdef")


def test_what_was_read_is_read_again_only_for_another_owner(open_batch: Open, guide_model: Model) -> None:
    wish = request("What is a KV cache?", max_tokens=4)
    with open_batch(guide_model) as many:
        usage = many.answers(wish, owner="a")[0].last.usage
        assert usage is not None
        n_prompt = usage.prompt_tokens
        assert many.answers(wish, owner="b")[0].cached == 0
        assert many.answers(wish, owner="a")[0].cached == n_prompt - 1
        assert many.answers(wish, owner="b")[0].cached == n_prompt - 1
        assert many.answers(*[request("Hello!", max_tokens=20)] * N_SLOTS, owner="c")[0].cached == 0
        assert many.answers(wish, owner="a")[0].cached == 0, "its slot was another's meanwhile"


def test_a_conversation_goes_on_in_its_slot(open_batch: Open, guide_model: Model) -> None:
    with open_batch(guide_model) as many:
        first, other = many.answers(request("What is a KV cache?"), request("What is a token?"))
        usage = first.last.usage
        assert usage is not None
        then = many.answers(request("What is a KV cache?", first.text, "Why?"))[0]
        assert then.cached >= usage.prompt_tokens + usage.completion_tokens - 1
        assert other.text


def test_a_prompt_that_many_share_is_read_once(open_batch: Open, echo: Model) -> None:
    """Also while the first of them is still reading it, or writing."""
    shared = "z" * 400
    with open_batch(echo, 4, 512) as many:
        heard = [many.submit(raw(shared + letter, max_tokens=40)) for letter in "abc"]
        while not heard[0].n_written:
            many.batcher.step()
        heard.append(many.submit(raw(shared + "d", max_tokens=2)))
        many.finish()
        stranger = many.answers(raw(shared + "e", max_tokens=2), owner="another")[0]
    assert [one.text[-2:] for one in heard] == ["aa", "bb", "cc", "dd"]
    assert [one.cached for one in heard] == [0, 400, 400, 400]
    assert stranger.cached == 0


@pytest.mark.parametrize("shape", [SLIDING, RECURRENT], ids=["sliding", "recurrent"])
def test_memories_that_cannot_go_back_answer_as_they_do_alone(shape: Any, tmp_path: Path, open_batch: Open) -> None:
    wishes = [request("tell me " * 40 + str(n), max_tokens=12, logprobs=2) for n in (1, 2, 1, 3, 2)]
    with loaded(write_model(tmp_path / "model.gguf", shape), ONE_THREAD) as model:
        apart = []
        for wish in wishes:
            with batch(model, settings(1)) as one:
                apart.append(one.answers(wish)[0])
        with open_batch(model, 3, 1024) as many:
            together = [*many.answers(*wishes), *many.answers(*wishes)]
    for ours, theirs in zip([*apart, *apart], together, strict=True):
        pairs = zip(ours.drawn, theirs.drawn, strict=False)
        first = next((a for a, b in pairs if a.chosen.token != b.chosen.token), None)
        assert first is None or first.top[0].logprob - first.top[1].logprob < 0.3
        assert theirs.last.finish_reason == ours.last.finish_reason


def test_one_that_fails_fails_alone(open_batch: Open, guide_model: Model, alone: dict[str, str]) -> None:
    impossible = Grammar("gbnf", 'root ::= "\\U0001F600"')
    with open_batch(guide_model) as many:
        good = [many.submit(request(question, max_tokens=48)) for question in QUESTIONS[:3]]
        many.batcher.step()
        long = many.submit(request("word " * 5000))
        broken = many.submit(request("Hello", grammar=Grammar("gbnf", "root := nothing")))
        strange = many.submit(Generate((), GREEDY, raw=RawPrompt("", tokens=(1, 1 << 30))))
        gap = many.submit(Generate((), GREEDY, raw=RawPrompt("def f(", suffix="return 1")))
        held = many.submit(request("Hello", grammar=impossible, max_tokens=8))
        many.finish()
    assert [one.text for one in good] == [alone[question] for question in QUESTIONS[:3]]
    assert long.failure.kind == "ContextOverflowError"
    assert "tokens" in long.failure.message
    assert [one.failure.kind for one in (broken, strange, gap)] == ["UsageError"] * 3
    assert held.text in ("\U0001f600", "") or held.failure.kind == "EngineError"


def test_cells_that_all_share_cut_off_nobody(echo: Model) -> None:
    """Where together they want more than there is, the newest waits, and goes on when there is room again."""
    with batch(echo, settings(4, 64, kv_unified=True)) as many:
        heard = many.answers(*[raw(letter * 20, max_tokens=90) for letter in "abcd"])
        too_much = many.answers(raw("e", max_tokens=None))[0]
    assert [one.text for one in heard] == [letter * 90 for letter in "abcd"]
    assert too_much.last.finish_reason == "context"
    assert set(too_much.text) == {"e"}


def test_grammars_hold_beside_answers_without(open_batch: Open, guide_model: Model, alone: dict[str, str]) -> None:
    numbers = [Grammar("gbnf", f'root ::= "{digit}"+ "."') for digit in range(4)]
    with open_batch(guide_model) as many:
        held = [many.submit(request("Count.", grammar=grammar, max_tokens=6)) for grammar in numbers]
        free = [many.submit(request(question, max_tokens=48)) for question in QUESTIONS[:4]]
        many.finish()
    assert [set(one.text) - {"."} for one in held] == [{str(digit)} for digit in range(4)]
    assert [one.text for one in free] == [alone[question] for question in QUESTIONS[:4]]


def test_thoughts_are_told_apart_for_each(open_batch: Open, tmp_path: Path) -> None:
    script = ["<think>", "\n", "hm", "\n", "</think>", "\n\n", "yes"]
    path = write_script(tmp_path / "thinks.gguf", QWEN3, ["<think>", "hm", "</think>", "yes"], ["<think>", "</think>"])
    del script
    with loaded(path, ONE_THREAD) as model, open_batch(model, 4, 256) as many:
        heard = many.answers(*[request(text, max_tokens=9) for text in ("a", "b", "c", "d", "e")])
    assert {(one.thoughts, one.text) for one in heard} == {("hm", "yes")}
    assert {one.last.usage.thought_tokens for one in heard if one.last.usage} == {3}


def test_a_stop_string_ends_only_its_own_answer(open_batch: Open, endless: Model) -> None:
    with batch(endless, settings(1)) as one:
        text = one.answers(request("go", max_tokens=40))[0].text
    stop = text.split()[9]
    with open_batch(endless) as many:
        ended, whole = many.answers(request("go", max_tokens=40, stop=(stop,)), request("go", max_tokens=40))
    assert ended.text == text[: text.index(stop)]
    assert ended.last.finish_reason == "stop"
    assert whole.text == text


def test_a_seed_repeats_an_answer_under_load(guide_model: Model) -> None:
    """Where each has cells of its own: attention then adds up in the same order as alone."""
    sampling = Sampling(temperature=1.5, top_p=0.9)
    wishes = [request("What is a GGUF?", sampling=replace(sampling, seed=seed), max_tokens=24) for seed in range(8)]
    with batch(guide_model, settings(1)) as one:
        apart = [one.answers(wish)[0].text for wish in wishes]
    with batch(guide_model, settings()) as many:
        assert [heard.text for heard in many.answers(*wishes)] == apart
    assert len(set(apart)) > 1


def test_log_probabilities_are_those_of_what_was_drawn(open_batch: Open, guide_model: Model) -> None:
    with open_batch(guide_model) as many:
        heard = many.answers(*[request(question, max_tokens=9, logprobs=3) for question in QUESTIONS[:4]])
    for one in heard:
        assert one.last.usage is not None
        assert len(one.drawn) == one.last.usage.completion_tokens
        assert b"".join(drawn.chosen.piece for drawn in one.drawn).decode() == one.text
        assert all(drawn.chosen == drawn.top[0] for drawn in one.drawn)
        assert all(0 >= a.logprob >= b.logprob >= c.logprob for a, b, c in (drawn.top for drawn in one.drawn))


def test_a_gap_is_filled_in_the_order_of_the_models_tokens(tmp_path: Path, open_batch: Open) -> None:
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    tokens = dict(zip(names, range(FIRST_FILLER, FIRST_FILLER + 3), strict=True))
    path = tmp_path / "infill.gguf"
    chain = {tokens["<|fim_middle|>"]: LETTERS[0], LETTERS[0]: LETTERS[1], LETTERS[1]: 2}
    write_model(path, replace(TINY, tied=False), controls={t: n for n, t in tokens.items()}, chain=chain)
    with loaded(path, ONE_THREAD) as model, open_batch(model, 2) as many:
        wish = Generate((), GREEDY, raw=RawPrompt("x<|fim_middle|>", suffix="y"), max_tokens=9)
        heard = many.submit(wish)
        many.batcher.step()
        assert heard.job.begun is not None
        prompt = heard.job.begun.prompt.tokens
        many.finish()
    assert (prompt[0], prompt[-1]) == (tokens["<|fim_prefix|>"], tokens["<|fim_middle|>"])
    assert prompt[-3] == tokens["<|fim_suffix|>"]
    assert prompt.count(tokens["<|fim_middle|>"]) == 1, "what people write is text"
    assert heard.text == "ab"


@given(room=st.integers(0, 300), wanted=st.lists(st.integers(0, 500), max_size=20))
def test_a_share_is_a_portion_for_the_first_and_no_room_is_wasted(room: int, wanted: list[int]) -> None:
    shares = share(room, wanted)
    assert sum(shares) == min(room, sum(wanted))
    assert all(0 <= got <= want for got, want in zip(shares, wanted, strict=True))
    for index, got in enumerate(shares):
        assert got >= min(wanted[index], PORTION, max(0, room - PORTION * index))
