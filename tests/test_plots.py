"""What pictures say, without drawing them; that they are drawn the same each time, with no label on another."""

from __future__ import annotations

import itertools
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.show_text import show_text
from llmrun.errors import LLMRunError, UsageError
from llmrun.gguf.summary import summarize
from llmrun.hardware.device import Device
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.pipeline import Shown
from llmrun.planning.forecast import Cell, ContextRow, Forecast
from llmrun.planning.plan import Plan, PlanWish, Whose
from llmrun.planning.pools import Pool
from llmrun.planning.quality import LOSS
from llmrun.plots.chart import Free, Part, axis_to, free_together, head_of, parts_of, reach
from llmrun.plots.file import check_picture, picture_of, write_picture
from llmrun.plots.machine import free_on
from llmrun.plots.plan_chart import ContextBar, PlanChart, PoolBar, plan_chart
from llmrun.plots.show_chart import LEAST_LOSS, ShowChart, show_chart
from llmrun.settings import RunSettings
from llmrun.site import Site
from llmrun.survey import Row, Survey
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Run = Callable[..., CompletedProcess[str]]
GIB, MIB = 1 << 30, 1 << 20
SIZES = st.integers(1, 1 << 50)
SITE = Site(HostMemory(total=16 * GIB, available=12 * GIB), Threads(4, 4, "4 physical cores: 4 threads"))
FREE = Free(12 * GIB, GIB, "12.0 GiB free")

# ---- axes


@given(st.integers(MIB, 1 << 50))
def test_an_axis_is_labelled_at_round_numbers_and_not_too_often(end: int) -> None:
    axis = axis_to(end)
    steps = {later - tick for tick, later in itertools.pairwise(axis.ticks)}
    assert axis.ticks[0] == 0
    assert axis.ticks[-1] <= end
    assert len(axis.ticks) <= 8
    assert not steps or max(steps) - min(steps) <= 1
    assert len({axis.tick_label(tick) for tick in axis.ticks}) == len(axis.ticks)


@given(st.lists(SIZES, min_size=1), SIZES)
def test_an_axis_reaches_what_is_free_unless_that_is_far_out(totals: list[int], free: int) -> None:
    end = reach(totals, free)
    assert end >= min(totals)
    assert end >= free or free > 5 * max(totals)
    assert end <= max(*totals, free)


def test_sizes_are_told_in_one_unit() -> None:
    axis = axis_to(20 * GIB)
    assert (axis.unit_name, axis.ticks) == ("GiB", tuple(tick * GIB for tick in (0, 5, 10, 15, 20)))
    assert [axis.label(size) for size in (5 * GIB, 20 * GIB, 131 * GIB)] == ["5.00", "20.0", "131"]
    assert axis_to(70 * MIB).unit_name == "MiB"


# ---- what is free


def test_what_is_free_is_counted_once_and_not_guessed() -> None:
    card, unknown = Device("CUDA0", "CUDA", "a card", 24 * GIB, 22 * GIB), Device("RPC0", "RPC", "far", None, None)
    shared = Device("MTL0", "MTL", "Apple M3", 12 * GIB, 12 * GIB, unified=True)
    wish = PlanWish(reserve_host=GIB, reserve_device=GIB // 2)
    assert free_on(SITE, wish) == FREE
    assert free_on(SITE.with_devices([shared]), wish) == FREE
    both = Free(34 * GIB, 3 * GIB // 2, "34.0 GiB free (RAM 12.0 GiB, CUDA0 22.0 GiB)")
    assert free_on(SITE.with_devices([card]), wish) == both
    assert free_on(SITE.with_devices([card, unknown]), wish) is None
    assert free_together([("RAM", GIB), ("A", GIB), ("B", GIB)], 0) == Free(3 * GIB, 0, "3.0 GiB free in all")


def test_a_head_fits_and_has_nothing_in_it_that_is_not_to_be_seen() -> None:
    head = head_of("a\x1b[31m" + 100 * "b", "one", 40 * "word ")
    assert head[0].startswith("a\\x1b[31mbbb")
    assert head[0].endswith("…")
    assert max(map(len, head[1:])) <= 124
    assert len(head) == 4


# ---- a plan


def forecast(kv_types: tuple[str, ...] = ("f16", "q8_0"), contexts: tuple[int, ...] = (4096, 8192)) -> Forecast:
    """On a host and a card, of which the card is the first that is full."""

    def cell(n_ctx: int, place: int) -> Cell | None:
        needed = (GIB, 6 * GIB + n_ctx * 256 * 1024 // (place + 1))
        return None if place == 3 else Cell(sum(needed), needed[1] <= 7 * GIB, needed=needed)

    return Forecast(
        settings=RunSettings(n_ctx=4096),
        pools=(
            Pool("host", "RAM", 16 * GIB, 12 * GIB, GIB, MemoryBreakdown(weights=GIB)),
            Pool("CUDA0", "a card", 8 * GIB, 15 * GIB // 2, GIB // 2, MemoryBreakdown(6 * GIB, GIB, 0, MIB)),
        ),
        source="engine",
        arithmetic=None,
        engine_trouble=None,
        n_ctx=4096,
        n_layer=32,
        n_ctx_train=8192,
        contexts=tuple(
            ContextRow(n_ctx, {kv_type: cell(n_ctx, place) for place, kv_type in enumerate(kv_types)})
            for n_ctx in contexts
        ),
    )


def plan_of(told: Forecast) -> Plan:
    return Plan("Q4_K_M", 0.0282, "balanced", "", "devices", told, None, False, ())


def test_a_plan_as_a_chart_tells_every_pool_and_the_one_that_is_full_first() -> None:
    chart = plan_chart(("model", "machine"), plan_of(forecast()))
    assert chart.pools == (
        PoolBar("host: needs 1.0 GiB; 12.0 GiB of 16.0 GiB is free", (Part("weights", GIB),), GIB, replace(FREE), True),
        PoolBar(
            "CUDA0 (a card): needs 7.0 GiB; 7.5 GiB of 8.0 GiB is free",
            (Part("weights", 6 * GIB), Part("KV cache", GIB), Part("overhead", MIB)),
            7 * GIB + MIB,
            Free(15 * GIB // 2, GIB // 2, "7.5 GiB free"),
            False,
        ),
    )
    assert chart.contexts == "memory of CUDA0, which runs short first"
    assert chart.free == Free(15 * GIB // 2, GIB // 2, "7.5 GiB free")
    assert [group.label for group in chart.groups] == ["4,096", "8,192"]
    assert chart.groups[0].bars == (
        ContextBar(7 * GIB, fits=True, chosen=True, about=False),
        ContextBar(13 * GIB // 2, fits=True, chosen=False, about=False),
    )
    assert chart.groups[1].bars[0] == ContextBar(8 * GIB, fits=False, chosen=False, about=False)
    assert chart.context_axis.end == 8 * GIB


def test_a_plan_where_nobody_knows_what_is_free_has_no_line() -> None:
    told = forecast()
    unknown = replace(told.pools[1], available=None)
    alone = replace(told, pools=(unknown,), contexts=(ContextRow(4096, {"f16": Cell(7 * GIB, True), "q4_0": None}),))
    chart = plan_chart(("model",), plan_of(alone))
    assert (chart.free, chart.contexts, chart.pools[0].free) == (None, "memory in all", None)
    assert chart.pools[0].label == "CUDA0 (a card): needs 7.0 GiB; how much is free is not known"
    assert chart.groups[0].bars[1] is None


# ---- all quantizations

SUMMARY = summarize(quantized(MODELS["llama-3.1-8b"], "Q8_0"))
NAMES = ("F32", *sorted(LOSS, key=lambda quant: LOSS[quant])[2:25])


def row(quant: str, size: int, loss: float) -> Row:
    variant = Variant(quant, (ModelFile(f"{quant}.gguf", size, Path(f"{quant}.gguf")),))
    taken, fits = MemoryBreakdown(size, GIB, 100 * MIB, 60 * MIB), size < 10 * GIB
    return Row(variant, True, quant, 5.0, loss, "host" if fits else None, 0, taken, 5.5 if fits else None)


def shown(*more: Row) -> Shown:
    """Twenty-five, from 32 GiB down, of which the larger do not fit into 12."""
    rows = [row(quant, 32 * GIB // (place + 1), LOSS[quant]) for place, quant in enumerate(NAMES)]
    return Shown(Survey(SUMMARY, (*rows, *more), "Q4_K_M", 4096, 33), None, (), (), (), SITE)


LONG = row("a-file-whose-name-says-\x1b[31mvery $much$ 模型", GIB, 2.25)


def test_all_quantizations_as_a_chart_tell_what_fits_how_good_and_how_fast() -> None:
    told = shown(replace(LONG, taken=None, decode=None)).survey
    chart = show_chart(("model",), told, FREE)
    first, chosen, last = chart.rows[0], next(row for row in chart.rows if row.chosen), chart.rows[-1]
    assert (first.label, first.size, first.fits, first.decode) == ("F32", "32.0 GiB", False, None)
    assert first.loss == LEAST_LOSS, "nothing is lost, which the axis cannot show"
    assert (chosen.label, chosen.loss, chosen.loss_name) == ("Q4_K_M", 0.0282, "good")
    assert (chosen.place, chosen.decode) == ("CPU", 5.5)
    assert chosen.parts == parts_of(told.rows[NAMES.index("Q4_K_M")].taken or MemoryBreakdown())
    assert (last.total, last.parts, last.decode, len(last.label)) == (None, (), None, 16)
    assert last.label.isprintable()
    assert chart.axis.end == 5 * FREE.size // 2
    assert chart.fastest == 5.5


@pytest.mark.parametrize(("owner", "place"), [("own", "GPU"), ("lent", "lent"), ("both", "devs")])
def test_devices_of_other_machines_are_no_gpus_of_ones_own(owner: Whose, place: str) -> None:
    there = shown(replace(LONG, where="devices"))
    there = replace(there, survey=replace(there.survey, owner=owner))
    assert show_chart(("model",), there.survey, FREE).rows[-1].place == place
    lines = show_text("many", there, PlanWish(reserve_host=GIB)).splitlines()
    assert max(map(len, lines)) <= 80
    assert f" {place.upper()} " in next(line for line in lines if line.startswith("  a-file-whos"))


def test_in_a_terminal_every_row_has_a_bar_to_one_scale() -> None:
    lines = show_text("many", shown(LONG), PlanWish(reserve_host=GIB)).splitlines()
    start = lines.index("memory of each; 12.0 GiB free, reserve 1.0 GiB")
    bars = lines[start + 1 : start + 1 + len(NAMES) + 1]
    assert max(map(len, lines)) <= 80
    assert [bar[2:].split()[0] for bar in bars[:-1]] == list(NAMES)
    assert bars[0].count("!") > 20
    assert bars[0].endswith("(33.16)")
    assert "|" in bars[5]
    assert [bar for bar in bars if bar.startswith(">")] == [bars[NAMES.index("Q4_K_M")]]
    ends = {bar.index("|") for bar in bars if "·" in bar}
    assert len(ends) == 1, "the reserve begins at the same place in all that leave something free"


# ---- drawn


@pytest.fixture(scope="module")
def charts() -> tuple[PlanChart, ShowChart]:
    """As full as they get: eleven contexts with four KV types, twenty-five quantizations, a name from everywhere."""
    pytest.importorskip("matplotlib")
    contexts = sorted((*(4096 << power for power in range(9)), 5000, 1_000_000))
    told = forecast(("f16", "q8_0", "q4_0", "q5_1"), tuple(contexts))
    head = head_of("模型 $x^2$ costs $5", "on 16.0 GiB RAM; 4 threads; no GPU in use", "with a context of 4,096 tokens")
    return plan_chart(head, plan_of(told)), show_chart(head, shown(LONG).survey, FREE)


@pytest.fixture(scope="module")
def texts(charts: tuple[PlanChart, ShowChart]) -> list[set[str]]:
    """What stands in each of them, drawn twice to the same bytes."""
    drawn = [[picture_of(chart, "svg") for _ in range(2)] for chart in charts]
    assert [len(set(both)) for both in drawn] == [1, 1]
    return [{text.text or "" for text in ElementTree.fromstring(both[0]).iter()} for both in drawn]


def test_the_same_chart_is_the_same_picture(texts: list[set[str]]) -> None:
    for found, free in zip(texts, (" 7.5 GiB", "12.0 GiB free"), strict=True):
        assert {"模型 $x^2$ costs $5", free} <= found


def test_every_quantization_is_named_and_what_does_not_fit_is_in_brackets(texts: list[set[str]]) -> None:
    assert {*NAMES} - {"Q4_K_M"} <= texts[1]
    assert {"> Q4_K_M", "(17.2)", "» (33.2)", "does not fit", "5.5 CPU", "lossless", "memory, GiB"} <= texts[1]
    assert {"> 7.00", "» (22.0)", "(10.0)", "1,048,576", "KV type q5_1", "context, tokens"} <= texts[0]


def test_no_label_stands_on_another(charts: tuple[PlanChart, ShowChart]) -> None:
    from llmrun.plots.drawing import our_style
    from llmrun.plots.plan_picture import plan_figure
    from llmrun.plots.show_picture import show_figure

    with our_style():
        assert [meeting(figure) for figure in (plan_figure(charts[0]), show_figure(charts[1]))] == [[], []]


def meeting(drawing: Figure) -> list[tuple[str, str]]:
    """The labels of a picture that meet, or leave it."""
    from matplotlib.text import Text

    drawing.draw_without_rendering()
    labels = [text for text in drawing.findobj(Text) if isinstance(text, Text) and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in labels if text.get_text().strip()]
    pairs = [(name, other) for (name, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)]
    whole = drawing.bbox
    return pairs + [(name, "edge") for name, a in boxes if a.x0 < 0 or a.x1 > whole.width or a.y1 > whole.height]


# ---- the file


@pytest.mark.parametrize("name", ["plan.pdf", "plan", "plan.svg.gz", ".svg"])
def test_another_ending_is_refused_with_those_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"a picture ends in \.png or \.svg, not in"):
        check_picture(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"--plot draws with matplotlib, which is not installed") as raised:
        check_picture(tmp_path / "plan.svg")
    assert raised.value.hint == "pip install 'llmrun[plot]'"


def test_a_file_that_cannot_be_written_is_told_before_and_one_that_is_there_is_left(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    older = tmp_path / "older.PNG"
    older.write_bytes(b"older")
    check_picture(older)
    check_picture(tmp_path / "new.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["older.PNG"]
    assert older.read_bytes() == b"older"
    for path in (tmp_path / "no folder" / "plan.svg", older / "plan.svg"):
        with pytest.raises(LLMRunError, match=r"cannot be written: "):
            check_picture(path)
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(LLMRunError, match=r"cannot be written: "):
        check_picture(tmp_path / "folder.svg")


def test_a_png_is_one_whatever_the_case_of_its_ending(charts: tuple[PlanChart, ShowChart], tmp_path: Path) -> None:
    write_picture(tmp_path / "show.PNG", charts[1])
    assert (tmp_path / "show.PNG").read_bytes().startswith(b"\x89PNG\r\n")


# ---- the commands


@pytest.mark.parametrize("command", [("plan", "--fast"), ("show",)], ids=lambda command: command[0])
def test_a_picture_comes_beside_the_json(llmrun: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.svg"
    done = llmrun(*command, "guide", "--json", "--plot", str(path))
    assert (done.returncode, done.stderr) == (0, f"the picture is in {path}\n")
    assert json.loads(done.stdout)["model"]["name"] == "guide"
    title = ElementTree.parse(path).getroot()[0]
    assert (title.text or "").startswith("guide: 6.6M parameters, ")
