"""The planner and what it says of its plans: one model in twenty quantizations on machines that are not here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun.engine.standby import Standby
from llmrun.errors import GGUFError, InsufficientMemoryError, UsageError
from llmrun.gguf.encode import encode_header
from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.hardware.what_if import parse_machine
from llmrun.memory.footprint import Footprint
from llmrun.planner import Planner
from llmrun.planning.pace import Pace
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.policy import PREFERENCES
from llmrun.planning.rates import Rates
from llmrun.planning.work import model_work
from llmrun.settings import Constraints, RunSettings
from llmrun.settling import make_planner
from llmrun.site import Site, site_of
from llmrun.speeds import Speeds
from llmrun.variant import ModelFile, Variant, quant_in_name
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS, small

Run = Callable[..., CompletedProcess[str]]
GIB = 1 << 30


@cache
def variants(name: str, quants: tuple[str, ...] = QUANTS) -> tuple[tuple[Variant, GGUFHeader], ...]:
    headers = [(quant, quantized(MODELS[name], quant)) for quant in quants]
    return tuple((Variant(q, (ModelFile(q, header.file_size, Path(q)),)), header) for q, header in headers)


def planner(
    name: str, machine: str, constraints: Constraints = Constraints(), wish: PlanWish = PlanWish(), quants: str = ""
) -> Planner:
    site = site_of(parse_machine(machine))
    found = variants(name, tuple(quants.split()) or QUANTS)
    return make_planner(found, site, constraints, wish, None, Speeds(None, site.threads.decode))


def plan(name: str, machine: str, constraints: Constraints = Constraints(), wish: PlanWish = PlanWish()) -> Plan:
    return planner(name, machine, constraints, wish).plan()


# ---- what a plan says


@pytest.mark.parametrize("machine", ["ram=16GiB", "rtx3060+32GiB", "rtx4090+rtx3070+64GiB", "m3max+64GiB"])
@pytest.mark.parametrize("prefer", PREFERENCES)
def test_every_setting_has_exactly_one_reason(prefer: str, machine: str) -> None:
    wish = PlanWish(prefer=next(known for known in PREFERENCES if known == prefer))
    for constraints in (Constraints(), Constraints(n_ctx=5000, type_kv="q8_0", n_threads=3, parallel=2)):
        found = plan("qwen3-30b-a3b", machine, constraints, wish)
        assert [reason.setting for reason in found.reasons] == ["variant", *(f.name for f in fields(RunSettings))]
        assert all(reason.note for reason in found.reasons)


def test_what_the_user_fixed_is_said_to_be_that() -> None:
    found = plan("llama-3.1-8b", "rtx3060+32GiB", Constraints(n_ctx=5000, n_gpu_layers=7, type_kv="q5_0", n_threads=3))
    causes = {reason.setting: reason.cause for reason in found.reasons}
    named = ("n_ctx", "n_gpu_layers", "type_k", "type_v", "n_threads", "n_threads_batch")
    assert {causes[name] for name in named} == {"USER"}
    settings = found.settings
    assert (settings.n_ctx, settings.n_gpu_layers, settings.type_k, settings.n_threads) == (5000, 7, "q5_0", 3)


def test_what_would_be_better_is_told_with_what_it_lacks() -> None:
    found = plan("llama-3.1-8b", "rtx4060+16GiB")
    assert (found.quant, found.where) == ("Q6_K", "devices")
    (better,) = found.better
    assert (better.quant, better.where, better.pool) == ("Q8_0", "devices", "CUDA0")
    weights = [variant.size for variant, _ in variants("llama-3.1-8b")]
    assert GIB < better.lacking < weights[1] - weights[2]
    # with so much more, and a little for what the driver and we keep of a larger card, it is taken
    more = f"ram=16GiB,vram={8 * GIB + better.lacking * 16 // 15}B"
    assert plan("llama-3.1-8b", more).quant == "Q8_0"


def test_a_shorter_context_with_which_the_better_one_fits_is_named() -> None:
    found = planner("llama-3.1-8b", "ram=9GiB,free=6GiB", quants="Q4_K_M Q4_K_S IQ4_XS").plan()
    (better, *_) = found.better
    assert better.lacking == 0 or better.n_ctx is None or better.n_ctx < found.forecast.n_ctx_each


def test_better_ones_that_are_too_slow_are_told_with_their_speed() -> None:
    found = plan("llama-3.1-8b", "ram=32GiB")
    slower = [better for better in found.better if better.lacking == 0]
    assert found.speed is not None
    assert slower
    assert all(better.decode is not None and better.decode < found.speed.decode for better in slower)


def test_runners_up_are_what_is_chosen_without_those_before_them() -> None:
    found = plan("qwen3-32b", "rtx4090+64GiB")
    left = tuple(quant for quant in QUANTS if quant != found.quant)
    second = planner("qwen3-32b", "rtx4090+64GiB", quants=" ".join(left)).plan()
    assert found.runners_up[0].quant == second.quant
    assert len({found.quant, *(runner.quant for runner in found.runners_up)}) == 4


# ---- what is refused


def test_a_refusal_names_the_smallest_and_what_is_free() -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        plan("llama-3.1-70b", "ram=8GiB")
    assert caught.value.message.startswith("it does not fit: the smallest quantization, IQ1_M, needs 16.")
    assert "5.9 GiB is free beside the reserve" in caught.value.message


@pytest.mark.parametrize(
    ("constraints", "flags"),
    [
        (Constraints(n_ctx=131072), ("--ctx",)),
        (Constraints(type_kv="f32", n_ctx=131072), ("--ctx",)),
        (Constraints(n_gpu_layers=33), ("--gpu-layers",)),
        (Constraints(parallel=256), ("--parallel",)),
    ],
)
def test_a_refusal_says_which_wish_to_give_up(constraints: Constraints, flags: tuple[str, ...]) -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        planner("llama-3.1-8b", "ram=8GiB,vram=4GiB", constraints, quants="Q4_K_M").plan()
    assert caught.value.hint is not None
    assert all(flag in caught.value.hint for flag in flags)
    words = caught.value.hint.split("`")[1].split()
    changed = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    better = replace(
        constraints,
        n_ctx=changed.get("--ctx", constraints.n_ctx),
        n_gpu_layers=changed.get("--gpu-layers", constraints.n_gpu_layers),
        parallel=changed.get("--parallel", constraints.parallel),
    )
    assert planner("llama-3.1-8b", "ram=8GiB,vram=4GiB", better, quants="Q4_K_M").plan().forecast.fits


def test_a_model_larger_than_memory_is_read_from_disk_only_if_allowed() -> None:
    with pytest.raises(InsufficientMemoryError):
        planner("llama-3.1-70b", "ram=32GiB", quants="Q4_K_M").plan()
    found = planner("llama-3.1-70b", "ram=32GiB", wish=PlanWish(allow_disk=True), quants="Q4_K_M").plan()
    host = found.forecast.pools[0]
    assert found.from_disk
    assert not found.forecast.fits
    assert host.available is not None
    assert host.used.anonymous + host.reserve <= host.available
    assert replace(found, disk_speed=2 * GIB).decode == pytest.approx(2 * GIB / host.used.mapped, rel=0.1)


def test_a_refusal_counts_what_the_card_can_take() -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        planner("llama-3.1-70b", "rtx3060+16GiB", quants="Q4_K_M").plan()
    assert "of 81 layers on CUDA0" in caught.value.message
    assert "--allow-disk" in (caught.value.hint or "")
    with pytest.raises(InsufficientMemoryError) as caught:
        planner("llama-3.1-8b", "ram=6GiB,vram=24GiB", wish=PlanWish(reserve_device=23 * GIB), quants="Q8_0").plan()
    assert caught.value.hint == "a smaller --device-reserve fits; left out, it is 512.0 MiB"


def test_a_described_machines_devices_can_be_chosen_and_limited(llmrun: Run, folder: Path) -> None:
    def asked(*devices: str) -> tuple[str, str]:
        found = json.loads(llmrun("plan", f"{folder}/", "--on", "rtx3060+32GiB", *devices, "--json").stdout)
        return found["quant"], found["where"]

    assert asked() == ("Q8_0", "devices")
    assert asked("--device", "none")[1] == "host"
    assert asked("--device", "CUDA0=7GiB") == ("Q4_K_M", "devices")


def test_a_heavy_loss_is_told(llmrun: Run, folder: Path) -> None:
    done = llmrun("plan", f"{folder}/", "--on", "ram=6GiB,free=5GiB")
    assert "note: Q2_K loses much of the model" in done.stderr


# ---- the reserve


def test_the_reserve_is_left_free_and_can_be_set() -> None:
    usual = plan("llama-3.1-8b", "rtx3060+32GiB")
    assert [pool.reserve for pool in usual.forecast.pools] == [32 * GIB // 20, GIB // 2]
    own = plan("llama-3.1-8b", "rtx3060+32GiB", wish=PlanWish(reserve_host=GIB, reserve_device=3 * GIB))
    assert [pool.reserve for pool in own.forecast.pools] == [GIB, 3 * GIB]
    assert own.forecast.fits


# ---- settled by the engine


LAPTOP = Site(HostMemory(16 * GIB, 12 * GIB), Threads(1, 1, "1 thread"))


def test_the_engines_word_counts_where_it_knows_better() -> None:
    """The arithmetic is made to believe that computing takes nothing: the plan is as large as the engine says."""
    found = variants("qwen3-0.6b", ("Q8_0", "Q4_K_M"))
    with Standby() as standby:
        honest = make_planner(found, LAPTOP, Constraints(), PlanWish(), standby, Speeds(None, 1))
        wanted = honest.plan()
        needed = wanted.forecast.pools[0].needed + wanted.forecast.pools[0].reserve
        tight = replace(LAPTOP, memory=HostMemory(16 * GIB, needed - 1))
        naive = make_planner(found, tight, Constraints(), PlanWish(), standby, Speeds(None, 1))
        for quant, stocked in naive._stock.items():
            naive._stock[quant] = replace(stocked, offer=replace(stocked.offer, footprint=naively(stocked.offer)))
        less = naive.plan()
    assert wanted.forecast.source == less.forecast.source == "engine"
    assert less.forecast.fits
    assert less.settings != wanted.settings


def naively(offer: object) -> Callable[[RunSettings], Footprint | None]:
    ask = getattr(offer, "footprint")  # noqa: B009

    def without_compute(settings: RunSettings) -> Footprint | None:
        known = ask(settings)
        return None if known is None else replace(known, host=replace(known.host, compute=0))

    return without_compute


def named(architecture: str) -> tuple[Variant, GGUFHeader]:
    """A small llama that calls itself something else."""
    header = quantized(small("llama-3.1-8b"), "Q8_0")
    entries = {
        key.replace("llama.", f"{architecture}.", 1): replace(entry, value=architecture)
        if entry.value == "llama"
        else entry
        for key, entry in header.metadata.items()
    }
    strange = replace(header, metadata=entries)
    return Variant("Q8_0", (ModelFile("x", strange.file_size, Path("x")),)), strange


def test_an_architecture_the_arithmetic_does_not_know_is_asked() -> None:
    with Standby() as standby:
        made = make_planner([named("minicpm")], LAPTOP, Constraints(), PlanWish(), standby, Speeds(None, 1))
        found = made.plan()
    assert (found.forecast.source, found.forecast.arithmetic) == ("engine", None)
    assert found.settings.n_ctx == 32768


def test_what_the_engine_refuses_is_refused_in_its_words() -> None:
    """The engine knows the architecture, and misses what every model of it has."""
    with Standby() as standby:
        made = make_planner([named("stablelm")], LAPTOP, Constraints(), PlanWish(), standby, Speeds(None, 1))
        with pytest.raises(GGUFError, match="could not be loaded"):
            made.plan()


# ---- speed


def test_a_pace_adds_up_as_the_law_does() -> None:
    from llmrun.memory.placement import place_layers
    from llmrun.planning.device_speeds import device_rates
    from llmrun.planning.host_speeds import default_host_rates
    from llmrun.planning.speed import predict

    work = model_work(variants("qwen3-30b-a3b")[6][1])
    host, card = default_host_rates(8, 8), device_rates("RTX 4090")
    assert card is not None
    pace = Pace(work, len(work.layers), host, {"CUDA0": card, "CUDA1": card})
    for settings in (
        RunSettings(devices=(), n_gpu_layers=0),
        RunSettings(devices=("CUDA0",), n_gpu_layers=20),
        RunSettings(devices=("CUDA0",), n_gpu_layers=49, cpu_experts=17),
        RunSettings(devices=("CUDA0", "CUDA1"), n_gpu_layers=49, tensor_split=(30.0, 19.0)),
    ):
        split = settings.tensor_split or (1.0,) * len(settings.devices or ())
        placement = place_layers(len(work.layers), settings.n_gpu_layers, split)
        told = predict(work, settings, placement, host, [card] * len(split))
        assert told is not None
        assert pace.decode(settings) == pytest.approx(told.decode)


def test_a_pace_that_nobody_knows_is_unknown() -> None:
    work = model_work(variants("llama-3.1-8b")[0][1])
    assert Pace(work, len(work.layers), Rates(), {}).decode(RunSettings(devices=(), n_gpu_layers=0)) is None


# ---- the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in three quantizations, of which only the headers are there, and a projector beside them."""
    path = tmp_path_factory.mktemp("llama-3.1-8b")
    for quant in ("Q8_0", "Q4_K_M", "Q2_K"):
        header = quantized(MODELS["llama-3.1-8b"], quant)
        with (path / f"llama-3.1-8b-{quant}.gguf").open("wb") as file:
            file.write(encode_header(header))
            file.truncate(header.file_size)
    return path


def test_a_folders_quantizations_are_chosen_from(llmrun: Run, folder: Path) -> None:
    for machine, quant in (("rtx4090+64GiB", "Q8_0"), ("rtx3050+16GiB", "Q4_K_M"), ("ram=6GiB,free=5GiB", "Q2_K")):
        found = json.loads(llmrun("plan", f"{folder}/", "--on", machine, "--json").stdout)
        assert found["quant"] == quant


def test_a_plan_for_another_machine_fits_on_eighty_columns(llmrun: Run, folder: Path) -> None:
    for machine in ("2xrtx3090+64GiB", "m3max+64GiB", "ram=8GiB", "rtx3060+16GiB"):
        done = llmrun("plan", f"{folder}/", "--on", machine)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_folder_of_several_models_is_refused(llmrun: Run, tmp_path: Path) -> None:
    for name in ("llama-3.1-8b", "qwen3-0.6b"):
        (tmp_path / f"{name}.gguf").write_bytes(encode_header(quantized(small(name), "Q8_0")))
        with (tmp_path / f"{name}.gguf").open("r+b") as file:
            file.truncate(quantized(small(name), "Q8_0").file_size)
    done = llmrun("plan", f"{tmp_path}/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds several models: llama-3.1-8b.gguf and qwen3-0.6b.gguf" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--prefer", "cheap"), 2, "balanced, quality, speed, context"),
        (("--on", "rtx4091+64GiB"), 2, "rtx4090"),
        (("--on", "rtx4090"), 2, "how much RAM"),
        (("--on", "ram=8GiB", "--exact"), 2, "--exact asks the engine of this machine"),
        (("--on", "rtx3060+32GiB", "--device", "CUDA1"), 2, "that machine has no device CUDA1: it has CUDA0"),
        (("--reserve", "much"), 2, "much"),
        (("--reserve", "4TiB"), 3, "a smaller --reserve fits; left out, it is "),
        (("--save", "/nowhere/plan.json"), 1, "cannot be written"),
        (("--device", "CUDA0=6"), 2, "CUDA0"),
    ],
)
def test_mistakes_in_planning_are_answered(llmrun: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = llmrun("plan", "guide", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("qwen3-8b-ud-q4_k_xl", "UD-Q4_K_XL"),
        ("model.IQ3_XXS", "IQ3_XXS"),
        ("gpt-oss-20b-MXFP4_MOE", "MXFP4_MOE"),
        ("model-BF16-00001-of-00002", "BF16"),
        ("Q8_0-to-Q4_0", "Q4_0"),
        ("ggml-model", None),
        ("QwQ-32B", None),
    ],
)
def test_a_files_name_tells_its_quantization(name: str, quant: str | None) -> None:
    assert quant_in_name(name) == quant


def test_prefer_is_one_of_four() -> None:
    from llmrun.cli.wishes import plan_wish

    assert [plan_wish(name.upper()).prefer for name in PREFERENCES] == list(PREFERENCES)
    with pytest.raises(UsageError):
        plan_wish("fast")


@pytest.mark.parametrize(("text", "hint"), [("5", "5GiB"), ("1000kB", "1GiB"), ("5%", "1GiB"), ("5G", "1GiB")])
def test_a_reserve_nobody_can_mean_is_refused_with_one_that_can_be(text: str, hint: str) -> None:
    from llmrun.cli.wishes import plan_wish

    with pytest.raises(UsageError, match=r"^--reserve") as host:
        plan_wish(None, reserve=text)
    with pytest.raises(UsageError, match=r"^--device-reserve") as device:
        plan_wish(None, device_reserve=text)
    hints = (host.value.hint, device.value.hint)
    assert hints == (f"for example --reserve {hint}", f"for example --device-reserve {hint}")
    assert plan_wish(None, reserve="0", device_reserve="1MiB").reserve_host == 0
