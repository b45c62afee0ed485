"""The README's pictures: a plan and a model's quantizations on machines that are made up, as `--plot` draws them."""

from __future__ import annotations

from pathlib import Path

from llmrun.cli.charts import chart_of_plan, chart_of_show
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.what_if import parse_machine
from llmrun.pipeline import Planned, Shown
from llmrun.planning.plan import Plan, PlanWish
from llmrun.plots.file import picture_of
from llmrun.settings import Constraints
from llmrun.settling import make_planner, stock_of
from llmrun.site import Site, described_site
from llmrun.speeds import Speeds
from llmrun.stock import Stocked
from llmrun.survey import survey
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS

FOLDER = Path(__file__).resolve().parent.parent / ".github" / "pictures"
_MODEL, _MACHINE, _LAPTOP = "llama-3.1-8b", "rtx3060+32GiB", "ram=16GiB,free=12GiB,cores=4"


def pictures() -> dict[Path, bytes]:
    """Return every picture, by the file it belongs into."""
    found = [_variant(quant) for quant in QUANTS]
    return {FOLDER / "plan.svg": _plan(found), FOLDER / "show.svg": _show(found)}


def _plan(found: list[tuple[Variant, GGUFHeader]]) -> bytes:
    """`llmrun plan ./llama-3.1-8b/ --on rtx3060+32GiB --plot plan.svg`."""
    site, speeds = _site(_MACHINE)
    planner = make_planner(found, site, Constraints(), PlanWish(), None, speeds)
    plan = planner.plan()
    chosen = planner.variant(plan)
    return picture_of(chart_of_plan(_MODEL, Planned(chosen.summary, chosen.variant, plan, site)), "svg")


def _show(found: list[tuple[Variant, GGUFHeader]]) -> bytes:
    """`llmrun show ./llama-3.1-8b/ --plot show.svg` on a laptop of 16 GiB without a GPU."""
    site, speeds = _site(_LAPTOP)
    stock = stock_of(found, site, None, speeds)
    table = survey(stock, [True] * len(stock), site, speeds, Constraints(), PlanWish(), _chosen(stock, site, speeds))
    return picture_of(chart_of_show(_MODEL, Shown(table, None, (), (), (), site), PlanWish()), "svg")


def _chosen(stock: list[Stocked], site: Site, speeds: Speeds) -> Plan:
    from llmrun.planner import Planner

    return Planner(stock, site, speeds, Constraints(), PlanWish()).plan()


def _site(machine: str) -> tuple[Site, Speeds]:
    site = described_site(parse_machine(machine), Constraints())
    return site, Speeds(None, site.threads.decode)


def _variant(quant: str) -> tuple[Variant, GGUFHeader]:
    header, name = quantized(MODELS[_MODEL], quant), f"{_MODEL}-{quant}.gguf"
    return Variant(quant, (ModelFile(name, header.file_size, Path(name)),)), header
