"""planning.link: what crosses to lenders, as predicted and as counted, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Usage
from llmrun.gguf.source import read_model_header
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.link import USUAL_LINK, Link
from llmrun.memory.compute import compute_shape
from llmrun.memory.placement import place_layers
from llmrun.planning.device_speeds import default_device_rates
from llmrun.planning.host_speeds import default_host_rates
from llmrun.planning.link import Lines, Step, Traffic, batch, one_token, roughly
from llmrun.planning.speed import predict
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import RunSettings
from scripts.synthetic import RECURRENT, SLIDING, Shape, write_model
from tests.conftest import chunks, request
from tests.counted import Counted
from tests.lent import lender

QUESTION = "how much memory does a 7B model need"
N_LAYER = 5


@cache
def work_of(path: Path) -> ModelWork:
    header = read_model_header(path)
    return replace(model_work(header), graph=compute_shape(header))


def guide_work() -> ModelWork:
    return work_of(embedded_file("Q8_0"))


def lent(name: str, link: Link | None = None) -> Device:
    lender = None if link is None else Lender(name.removeprefix("rpc:").partition("/")[0], link)
    return Device(name, "RPC", "", 1 << 30, 1 << 30, lender=lender)


def lines_of(names: Sequence[str], settings: RunSettings, work: ModelWork | None = None) -> Lines:
    work = work or guide_work()
    placement = place_layers(len(work.layers), settings.n_gpu_layers, settings.tensor_split or (1.0,) * len(names))
    return Lines(work, settings, placement, [lent(name, USUAL_LINK) for name in names])


@pytest.fixture(scope="module")
def counted() -> Iterator[tuple[Counted, Counted]]:
    """Two lenders behind connections that are counted."""
    with (
        lender() as start,
        Counted(int(start().id.rpartition(":")[2])) as one,
        Counted(int(start().id.rpartition(":")[2])) as other,
    ):
        yield one, other


def count(engine: Engine, links: Sequence[Counted], question: str, n: int) -> tuple[Usage, list[tuple[int, int]]]:
    """Ask, and return what crossed until the answer was there."""
    before = [(link.sent, link.received) for link in links]
    usage = chunks(engine, request(question, max_tokens=n))[-1].usage
    assert usage is not None
    return usage, [(link.sent - was[0], link.received - was[1]) for link, was in zip(links, before, strict=True)]


def together(steps: Sequence[tuple[Traffic, ...]]) -> list[tuple[float, float]]:
    return [(sum(one.sent for one in each), sum(one.received for one in each)) for each in zip(*steps, strict=True)]


def base_of(links: Sequence[Counted]) -> RunSettings:
    names = tuple(link.id for link in links)
    return RunSettings(n_threads=1, n_threads_batch=1, n_ctx=512, devices=names, tensor_split=(1.0, 1.0))


def steps_of(usage: Usage) -> list[Step]:
    """The steps of an answer whose prompt is read at once, by as many tokens as before: each graph is sent once."""
    first = Step(usage.cached_tokens, usage.read_tokens, 1, fresh=1)
    others = [Step(usage.prompt_tokens, 1, 1, fresh=0)] * (usage.completion_tokens - 1)
    if others and usage.read_tokens > 1:
        others[0] = replace(others[0], fresh=1)
    return [first, *others]


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        (None, {}),
        (None, {"n_gpu_layers": 3, "tensor_split": (2.0, 1.0)}),
        (None, {"type_k": "q8_0", "type_v": "q8_0", "tensor_split": (1.0, 4.0)}),
        (SLIDING, {}),
        (RECURRENT, {"tensor_split": (1.0, 2.0)}),
    ],
    ids=["everything", "a part", "quantized cache", "windows", "a state"],
)
def test_what_crosses_is_what_was_predicted(
    counted: tuple[Counted, Counted], shape: Shape | None, way: dict[str, Any], tmp_path: Path
) -> None:
    """Every byte of an answer, either way."""
    path = embedded_file("Q8_0")
    if shape is not None:  # one that does not end by itself
        path = write_model(tmp_path / "model.gguf", replace(shape, tied=False), writes=range(300, 500))
    settings = replace(base_of(counted), **way)
    lines = lines_of(settings.devices or (), settings, work_of(path))
    with Engine() as engine:
        engine.load(path, settings)
        read, first = count(engine, counted, QUESTION, 1)
        again, more = count(engine, counted, QUESTION, 12)
    assert read.completion_tokens == 1
    step = Step(read.cached_tokens, read.read_tokens, 1, fresh=1, new=True)
    for was, (sent, received) in zip(first, together([lines.traffic(step)]), strict=True):
        assert was[0] == pytest.approx(sent, rel=0.1)  # some results have sizes that the server was asked about before
        assert was[1] == pytest.approx(received, rel=0.05)
    assert more == together([lines.traffic(step) for step in steps_of(again)])


def test_a_prompt_of_several_steps_crosses_as_predicted(counted: tuple[Counted, Counted]) -> None:
    """Where cells are not yet another CELL_STEP, the next step has the same graph, which is not sent again."""
    settings = replace(base_of(counted), n_ubatch=64, n_batch=64)
    lines = lines_of(settings.devices or (), settings)
    with Engine() as engine:
        engine.load(embedded_file("Q8_0"), settings)
        usage, found = count(engine, counted, "what is a kv cache and " * 60, 1)
    done, last = usage.cached_tokens, usage.prompt_tokens
    assert last - done > 256
    steps = [batch(at, min(64, last - at), int(at + 64 >= last)) for at in range(done, last, 64)]
    for was, (sent, received) in zip(found, together([lines.traffic(step) for step in steps]), strict=True):
        assert was[0] == pytest.approx(sent, rel=0.03)
        assert was[1] == pytest.approx(received, rel=0.03)


@hypothesis.settings(max_examples=30)
@given(st.integers(0, 3000), st.integers(1, 512), st.integers(0, N_LAYER + 1), st.sampled_from(["f16", "q8_0"]))
def test_more_tokens_cross_as_more_bytes(n_past: int, n_tokens: int, n_gpu_layers: int, kv_type: str) -> None:
    settings = RunSettings(n_ctx=4096, n_gpu_layers=n_gpu_layers, type_k=kv_type, type_v=kv_type)
    lines = lines_of(("rpc:a:1", "rpc:b:1"), settings)
    step = batch(n_past, n_tokens, 1)
    for fewer, more, cached in zip(
        lines.traffic(step),
        lines.traffic(replace(step, n_tokens=n_tokens + 1)),
        lines.traffic(replace(step, fresh=0.0)),
        strict=True,
    ):
        assert more.sent >= fewer.sent >= cached.sent
        assert more.received >= fewer.received
        assert fewer.sent >= 0
        assert (fewer.sent > 0) == (fewer.trips > 0)  # a device that computes sends something back


def test_what_stays_here_crosses_nowhere() -> None:
    settings = RunSettings(n_ctx=512, n_gpu_layers=99)
    here, there = lent("CUDA0"), lent("rpc:h:1", USUAL_LINK)
    mixed = Lines(guide_work(), settings, place_layers(N_LAYER, 99, (1.0, 1.0)), (here, there))
    assert mixed.traffic(one_token(100))[0] == Traffic()
    assert mixed.traffic(one_token(100))[1].trips == 1
    alone = Lines(guide_work(), settings, place_layers(N_LAYER, 99, (1.0,)), (here,))
    assert list(alone.terms(one_token(100))) == []


def test_a_server_copies_between_its_own_devices() -> None:
    settings = RunSettings(n_ctx=512, n_gpu_layers=99)
    one, two = (lines_of(names, settings).traffic(batch(0, 512, 1)) for names in _neighbours())
    assert sum(each.received for each in two) - sum(each.received for each in one) > 4 * 256 * 500
    assert sum(each.trips for each in one) == sum(each.trips for each in two)


def _neighbours() -> tuple[tuple[str, str], tuple[str, str]]:
    return ("rpc:a:1", "rpc:a:1/1"), ("rpc:a:1", "rpc:b:1")


def test_a_model_of_which_the_graph_is_not_known_is_taken_roughly() -> None:
    """Hidden states there and logits back are most of it."""
    settings = RunSettings(n_ctx=512, n_gpu_layers=99)
    known = lines_of(("rpc:a:1",), settings)
    unknown = lines_of(("rpc:a:1",), settings, replace(guide_work(), graph=None))
    step = batch(0, 512, 1)
    assert unknown.traffic(step)[0].received == pytest.approx(known.traffic(step)[0].received, rel=0.1)
    assert unknown.traffic(step)[0].sent == pytest.approx(known.traffic(step)[0].sent, rel=0.2)
    assert unknown.traffic(step)[0] == roughly(guide_work(), step, ends=True)


def test_a_slower_link_makes_a_slower_model() -> None:
    settings = RunSettings(n_ctx=2048, n_gpu_layers=99)
    rates = default_device_rates("RPC")
    host = default_host_rates(1, 1, repack=False)
    placement = place_layers(N_LAYER, 99, (1.0,))

    def speed(link: Link | None) -> tuple[float, float]:
        lines = Lines(guide_work(), settings, placement, [lent("rpc:a:1", link)])
        found = predict(guide_work(), settings, placement, host, [rates], lines=lines)
        assert found is not None
        return found.decode, found.prefill

    none, slow, slower = speed(None), speed(USUAL_LINK), speed(Link(3e-3, 1e7, 1e7))
    assert none > slow > slower
    # a token waits for one answer and carries its hidden state there and its logits back, both known
    work = guide_work()
    least = 3e-3 + 4 * (256 + work.n_vocab) / 1e7
    assert 1 / slower[0] - 1 / none[0] == pytest.approx(least, rel=0.2)
    assert slow[0] < none[0]
