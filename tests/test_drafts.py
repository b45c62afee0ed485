"""Draft models in a plan: which file is meant, what it takes beside the model, and what is said of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.wishes import constraints_of, drafted
from llmrun.drafts import Draft, choose_draft, open_draft
from llmrun.embedded import embedded_file
from llmrun.engine.layouts import read_layouts
from llmrun.engine.standby import Standby
from llmrun.errors import GGUFError, InsufficientMemoryError, UsageError
from llmrun.footprints import Footprints
from llmrun.gguf.encode import build_header, encode_header
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_header
from llmrun.hardware.what_if import parse_machine
from llmrun.library.options import constraints_of as library_constraints
from llmrun.memory.estimate import Machine
from llmrun.memory.footprint import MemoryBreakdown
from llmrun.models import Search, open_model
from llmrun.planner import Planner
from llmrun.planning.drafts import draft_settings
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import GuideRef, LocalRef
from llmrun.settings import Constraints, RunSettings
from llmrun.settling import Stockroom, Wishes
from llmrun.site import site_of
from llmrun.variant import ModelFile, Variant
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS

Run = Callable[..., CompletedProcess[str]]
MIB = 1 << 20
BIG, SMALL = "llama-3.1-8b", "llama-3.2-1b"
WISH = "/models/draft.gguf"


@cache
def header_of(name: str, quant: str) -> GGUFHeader:
    return quantized(MODELS[name], quant)


def found(name: str, *quants: str) -> list[tuple[Variant, GGUFHeader]]:
    headers = [(quant, header_of(name, quant)) for quant in quants]
    return [(Variant(q, (ModelFile(f"{name}-{q}.gguf", h.file_size, Path(f"/{name}")),)), h) for q, h in headers]


def draft_of(name: str, quant: str = "Q4_K_M") -> Draft:
    ((variant, header),) = found(name, quant)
    return Draft(WISH, variant, header, "as you said")


def planned(machine: str, draft: Draft | None, constraints: Constraints = Constraints(), model: str = BIG) -> Plan:
    site = site_of(parse_machine(machine))
    room = Stockroom(site, None, draft=draft)
    fixed = Wishes(constraints, PlanWish(), draft=draft).fixed
    return Planner(room.stock(found(model, "Q4_K_M")), site, room.speeds, fixed, PlanWish()).plan()


# ---- what is meant


def test_a_draft_is_named_alike_in_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert drafted(Constraints(), "./small.gguf").draft == str(tmp_path / "small.gguf")
    assert drafted(Constraints(), "qwen3:0.6b").draft == "qwen3:0.6b"
    assert drafted(Constraints(), "Auto").draft == "auto"
    assert library_constraints({"draft": "guide:Q4_K_M", "speculate": 3}) == Constraints(
        n_draft_max=3, draft="guide:Q4_K_M"
    )
    assert library_constraints({}).draft is None


def test_who_wants_no_guesses_wants_no_draft() -> None:
    off = constraints_of(None, None, None, None, None, None, speculate="off")
    with pytest.raises(UsageError, match="--speculate off"):
        drafted(off, "guide")
    with pytest.raises(UsageError, match="--speculate off"):
        library_constraints({"draft": "guide", "speculate": "off"})


def test_of_several_quantizations_the_smallest_that_loses_little_guesses() -> None:
    (variant, _), why = choose_draft(found(SMALL, "F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"))
    assert (variant.quant, why) == ("Q4_K_M", "the smallest that loses little")
    (variant, _), why = choose_draft(found(SMALL, "Q2_K", "Q3_K_M"))
    assert (variant.quant, why) == ("Q3_K_M", "the one that loses least")
    (variant, _), why = choose_draft(found(SMALL, "Q2_K"))
    assert (variant.quant, why) == ("Q2_K", "as you said")


def opened(ref: LocalRef | GuideRef, wish: str) -> Draft:
    return open_draft(wish, ref, open_model(ref), Search(offline=True))


def test_a_draft_is_any_model_that_can_be_named(tmp_path: Path) -> None:
    model = GuideRef("Q8_0")
    draft = opened(model, "guide")
    assert (draft.name, draft.variant.quant, draft.is_here) == ("guide-Q4_K_M.gguf", "Q4_K_M", True)
    copy = shutil.copy(embedded_file("Q8_0"), tmp_path / "own.gguf")
    draft = opened(model, str(copy))
    assert (draft.name, draft.variant.quant, draft.path) == ("own.gguf", "Q8_0", str(copy))


def test_the_draft_that_comes_with_a_model_lies_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "guide-Q8_0.gguf"
    shutil.copy(embedded_file("Q8_0"), model)
    with pytest.raises(UsageError, match="no draft model comes with"):
        opened(LocalRef(model), "auto")
    shutil.copy(embedded_file("Q4_K_M"), tmp_path / "guide-draft-Q4_K_M.gguf")
    assert opened(LocalRef(model), "auto").name == "guide-draft-Q4_K_M.gguf"
    with pytest.raises(UsageError, match="no draft model comes with guide"):
        opened(GuideRef("Q8_0"), "auto")


def test_a_head_that_needs_its_model_is_no_draft(tmp_path: Path) -> None:
    header = header_of(SMALL, "Q4_K_M")
    renamed = {key.replace("llama.", "eagle3."): entry for key, entry in header.metadata.items()}
    renamed["general.architecture"] = replace(renamed["general.architecture"], value="eagle3")
    head = build_header(header.version, renamed, header.tensors)
    path = tmp_path / "eagle3-head.gguf"
    with path.open("wb") as file:
        file.write(encode_header(head))
        file.truncate(head.file_size)
    with pytest.raises(GGUFError, match=r"a part of one \(eagle3\)"):
        opened(GuideRef("Q8_0"), str(path))


# ---- what it takes


@pytest.fixture(scope="module")
def standby() -> Iterator[Standby]:
    with Standby() as engine:
        yield engine


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(n_ctx=512, devices=(), n_gpu_layers=0),
        RunSettings(n_ctx=4096, n_seq_max=2, n_outputs_max=8, n_draft_max=7, devices=(), n_gpu_layers=0),
        RunSettings(n_ctx=1024, type_k="q8_0", type_v="q8_0", devices=(), n_gpu_layers=0, repack=True, n_threads=2),
    ],
)
def test_engine_and_arithmetic_agree_on_a_draft(settings: RunSettings, standby: Standby) -> None:
    big, small = (read_header(embedded_file(quant)) for quant in ("Q8_0", "Q4_K_M"))
    machine = Machine(layouts=read_layouts())
    ours = Footprints(big, machine, standby, draft=Footprints(small, machine, standby))
    asked, calculated = ours.exact(settings), ours.arithmetic(settings)
    assert asked is not None
    assert calculated is not None
    for part in ("weights", "kv_cache", "overhead", "mapped"):
        assert getattr(asked.host, part) == getattr(calculated.host, part)
    assert asked.host.compute == pytest.approx(calculated.host.compute, rel=0.05)


def parts(used: MemoryBreakdown) -> tuple[int, int, int, int]:
    return used.weights, used.kv_cache, used.compute, used.mapped


@given(
    n_gpu_layers=st.integers(0, 33),
    n_ctx=st.sampled_from((512, 4096, 8192)),
    n_seq=st.integers(1, 4),
    n_devices=st.integers(1, 2),
)
def test_a_plan_counts_the_model_and_all_of_the_draft_on_one_pool(
    n_gpu_layers: int, n_ctx: int, n_seq: int, n_devices: int
) -> None:
    machine = site_of(parse_machine("2xrtx3090+64GiB")).machine
    names = tuple(device.id for device in machine.devices)[:n_devices]
    settings = RunSettings(
        n_ctx=n_ctx * n_seq, n_seq_max=n_seq, n_outputs_max=8, devices=names, n_gpu_layers=n_gpu_layers
    )
    draft = Footprints(header_of(SMALL, "Q4_K_M"), machine)
    alone = Footprints(header_of(BIG, "Q4_K_M"), machine).arithmetic(settings)
    beside = draft.arithmetic(draft_settings(settings))
    both = Footprints(header_of(BIG, "Q4_K_M"), machine, draft=draft).arithmetic(settings)
    assert alone is not None
    assert beside is not None
    assert both is not None
    assert len(beside.devices) == (1 if n_gpu_layers else 0)
    devices = [*beside.devices, *[MemoryBreakdown()] * (n_devices - len(beside.devices))]
    for total, own, drafts in zip(both.devices, alone.devices, devices, strict=True):
        assert parts(total) == tuple(map(sum, zip(parts(own), parts(drafts), strict=True)))
        assert total.overhead == own.overhead  # one driver, whatever runs on it
    # one process: its own memory and its libraries are there once
    assert parts(both.host)[:3] == tuple(map(sum, zip(parts(alone.host)[:3], parts(beside.host)[:3], strict=True)))
    assert alone.host.overhead < both.host.overhead < alone.host.overhead + beside.host.overhead - 50 * MIB


def test_layers_make_room_for_a_draft() -> None:
    card = "ram=32GiB,vram=8GiB"
    constraints = Constraints(n_ctx=16384, type_kv="f16")
    without, beside = planned(card, None, constraints), planned(card, draft_of(SMALL), constraints)
    assert without.settings.n_gpu_layers is not None
    assert beside.settings.n_gpu_layers is not None
    assert 0 < beside.settings.n_gpu_layers < without.settings.n_gpu_layers
    assert beside.draft is not None
    assert beside.draft.used[1].weights > 500 * MIB
    assert beside.forecast.fits
    assert beside.settings.draft == "/" + SMALL


def test_a_draft_that_finds_no_room_is_refused_with_its_model() -> None:
    machine = "ram=8GiB,free=5.8GiB"
    assert planned(machine, None, Constraints(n_ctx=512)).forecast.fits
    with pytest.raises(InsufficientMemoryError):
        planned(machine, draft_of(SMALL), Constraints(n_ctx=512))


def test_a_model_that_cannot_forget_has_no_use_for_a_draft() -> None:
    with pytest.raises(UsageError, match="of no use to this model"):
        planned("ram=64GiB", draft_of(SMALL), model="mamba2-2.7b")
    with pytest.raises(GGUFError, match="cannot guess"):
        planned("ram=64GiB", draft_of("mamba2-2.7b"))


def test_what_is_told_of_a_draft_is_part_of_what_is_planned() -> None:
    plan = planned("ram=64GiB", draft_of(SMALL))
    assert plan.draft is not None
    (used,), (pool,) = plan.draft.used, plan.forecast.pools
    assert (plan.draft.asked, plan.draft.name, plan.draft.quant) == (WISH, f"{SMALL}-Q4_K_M.gguf", "Q4_K_M")
    assert 0 < used.kv_cache < pool.used.kv_cache
    assert used.total < pool.used.total
    (reason,) = [reason for reason in plan.reasons if reason.setting == "draft"]
    assert (reason.value, reason.cause) == (plan.draft.name, "USER")


@pytest.mark.parametrize("options", [("--ctx", "512"), ("--ctx", "4096", "--kv-type", "q8_0", "--parallel", "2")])
def test_a_draft_that_is_loaded_takes_what_was_planned(llmrun: Run, options: tuple[str, ...]) -> None:
    said = llmrun("plan", "guide:Q8_0", "--draft", "guide:Q4_K_M", "--threads", "1", *options, "--exact", "--json")
    plan = json.loads(said.stdout)
    settings = json.dumps(plan["settings"])
    command = [sys.executable, "-P", "-m", "tests.draft_loads", str(embedded_file("Q8_0")), settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    host, (used,) = json.loads(done.stdout)["host"], plan["draft"]["used"]
    output = json.loads(done.stdout)["output"]
    assert host["kv_cache"] == used["kv_cache"]
    assert host["compute"] + output == used["compute"]
    # pages of the file: those from the first weight to the last, of which the engine tells those that it uses
    assert host["repack"] == used["weights"] - used["mapped"]
    assert host["weights"] - host["repack"] <= used["mapped"]
    assert host["repack"] or host["weights"] == pytest.approx(used["weights"], rel=0.01)


# ---- the program


def test_a_plan_shows_the_draft_in_its_lines(llmrun: Run) -> None:
    done = llmrun("plan", "guide:Q8_0", "--draft", "guide", "--ctx", "512")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "  of it the draft " in done.stdout
    assert "\n  draft         guide-Q4_K_M.gguf: it guesses" in done.stdout
    figures = json.loads(llmrun("plan", "guide:Q8_0", "--draft", "guide", "--ctx", "512", "--json").stdout)
    alone = json.loads(llmrun("plan", "guide:Q8_0", "--ctx", "512", "--json").stdout)
    assert alone["draft"] is None
    assert figures["total"] == alone["total"] + figures["draft"]["total"]
    assert figures["settings"]["draft"] == str(embedded_file("Q4_K_M"))


def test_a_plan_with_a_draft_is_saved_and_run(llmrun: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    done = llmrun(
        "plan", "guide:Q8_0", "--draft", "guide", "--ctx", "512", "--save", str(path), "--emit", "llama-server"
    )
    assert f"-md {embedded_file('Q4_K_M')} --spec-type draft-simple" in done.stdout
    done = llmrun("run", "guide:Q8_0", "hi", "-n", "4", "--plan", str(path), "--verbose")
    assert done.returncode == 0, done.stderr
    assert "plan: draft guide-Q4_K_M.gguf" in done.stderr


def test_a_draft_no_smaller_than_the_model_is_noted(llmrun: Run) -> None:
    done = llmrun("plan", "guide:Q4_K_M", "--draft", "guide:Q8_0", "--ctx", "512")
    assert "note: guide-Q8_0.gguf is no smaller than the model it guesses for" in done.stderr
    assert "no smaller" not in llmrun("plan", "guide:Q8_0", "--draft", "guide:Q4_K_M", "--ctx", "512").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--draft", "auto"), 2, "no draft model comes with guide"),
        (("--draft", "/there/is/none.gguf"), 5, "error: --draft: there is no file /there/is/none.gguf"),
        (("--draft", "guide:Q2_K"), 2, "guide has no quantization"),
        (("--draft", "guide", "--speculate", "off"), 2, "--speculate off"),
        (("--draft", "qwen3:999b"), 5, "error: --draft: "),
        (("--draft", "no model"), 2, "hint: --draft names a model as MODEL does"),
        (("--draft", "/dev/null"), 5, "error: --draft: /dev/null is"),
    ],
)
def test_mistakes_about_drafts_are_answered(llmrun: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = llmrun("plan", "guide", *arguments)
    assert done.stdout == ""
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80
