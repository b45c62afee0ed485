"""`llmrun plan` and `llmrun inspect`: what they say to people and to programs, and to mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun.cli.inspecting import summary_text
from llmrun.cli.plan_text import bar, plan_text
from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import UsageError
from llmrun.footprints import machine_of
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from llmrun.gguf.summary import QUANTS, ModelSummary, summarize
from llmrun.hardware.device import Device, Lender
from llmrun.hardware.link import USUAL_LINK
from llmrun.memory.estimate import Machine, maps_file
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.planning.forecast import (
    Cell,
    ContextRow,
    Forecast,
    Source,
    context_table,
    table_contexts,
)
from llmrun.planning.plan import Better, Plan, RunnerUp, Whose
from llmrun.planning.pools import Pool, host_reserve, make_pools
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

Run = Callable[..., CompletedProcess[str]]
GIB, MIB = 1 << 30, 1 << 20


def write_ghost(path: Path, name: str, mix: str = "Q4_K_M") -> Path:
    """A file of a published model's full size of which only the header is there."""
    header, size = ghost(MODELS[name], mix, tokenizer=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return path


@pytest.fixture(scope="module")
def eight_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ghost(tmp_path_factory.mktemp("ghosts") / "8b.gguf", "llama-3.1-8b")


@pytest.fixture(scope="module")
def summary(eight_b: Path) -> ModelSummary:
    return summarize(read_header(eight_b))


# ---- pools and the bar


def pool(used: MemoryBreakdown, available: int | None = 16 * GIB, reserve: int = GIB) -> Pool:
    return Pool("host", "RAM", 16 * GIB, available, reserve, used)


@pytest.mark.parametrize(("total", "reserve"), [(GIB, 512 * MIB), (10 * GIB, 512 * MIB), (64 * GIB, 64 * GIB // 20)])
def test_a_host_keeps_half_a_gib_or_a_twentieth(total: int, reserve: int) -> None:
    assert host_reserve(total) == reserve


@pytest.mark.parametrize(
    ("limit", "outside", "reserve"),
    [
        (GIB, 40 * GIB, 64 * MIB),
        (2 * GIB, 40 * GIB, 2 * GIB // 20),
        (2 * GIB, 64 * GIB // 20 - 300 * MIB, 300 * MIB),  # the host itself has little left: that counts inside too
    ],
)
def test_a_container_keeps_64_mib_or_a_twentieth_of_its_limit(limit: int, outside: int, reserve: int) -> None:
    assert host_reserve(64 * GIB, limit, outside) == reserve


def test_a_pool_has_room_up_to_the_last_byte() -> None:
    exactly = pool(MemoryBreakdown(weights=15 * GIB))
    assert (exactly.headroom, exactly.fits) == (0, True)
    assert not replace(exactly, used=MemoryBreakdown(weights=15 * GIB + 1)).fits


def test_a_device_nobody_knows_the_memory_of_is_not_said_to_be_too_small() -> None:
    unknown = pool(MemoryBreakdown(weights=GIB), available=None)
    assert (unknown.headroom, unknown.fits) == (None, True)


def test_a_bar_shows_each_part_in_its_place() -> None:
    used = MemoryBreakdown(weights=4 * GIB, kv_cache=2 * GIB, compute=GIB, overhead=GIB)
    assert bar(pool(used), width=16) == "████▓▓▒░·······|"


def test_a_bar_shows_what_is_lacking() -> None:
    assert bar(pool(MemoryBreakdown(weights=31 * GIB)), width=32) == "█" * 16 + "!" * 16


def test_a_bar_of_nothing_is_free() -> None:
    assert bar(pool(MemoryBreakdown(), reserve=0), width=4) == "····"


INTEGRATED = Device("Vulkan0", "Vulkan", "integrated", 8 * GIB, 8 * GIB, unified=True)
CARD = Device("CUDA0", "CUDA", "a card", 8 * GIB, 7 * GIB)


def test_a_device_without_memory_of_its_own_takes_the_hosts() -> None:
    """9 GiB on the host and 7 on the device are 16 of the 12 there are."""
    taken = Footprint(MemoryBreakdown(weights=9 * GIB), (MemoryBreakdown(weights=7 * GIB),))
    shared, own = (make_pools(taken, 16 * GIB, 12 * GIB, (device,)) for device in (INTEGRATED, CARD))
    assert (shared[0].needed, shared[0].fits) == (16 * GIB, False)
    assert (own[0].needed, own[0].fits) == (9 * GIB, True)
    assert [pools[1].reserve for pools in (shared, own)] == [0, 512 * MIB]


def info(name: str, kind: str = "GPU", backend: str = "CUDA", total: int = 8 * GIB) -> DeviceInfo:
    return DeviceInfo(name, name, f"a {backend} device", backend, kind, total // 2, total)


def test_an_integrated_device_is_taken_only_where_there_is_no_other() -> None:
    igpu, card = info("Vulkan0", "IGPU", "Vulkan"), info("CUDA0")
    both, alone = (machine_of(found, None, 0, Machine()).devices for found in ((igpu, card), (igpu,)))
    assert [device.id for device in both] == ["CUDA0"]
    assert [(device.id, device.unified) for device in alone] == [("Vulkan0", True)]
    assert [d.id for d in machine_of((igpu, card), ("Vulkan0",), 0, Machine()).devices] == ["Vulkan0"]


def test_apples_devices_are_the_hosts_memory_whatever_they_call_themselves() -> None:
    assert machine_of((info("MTL0", "GPU", "MTL"),), None, 0, Machine()).devices[0].unified


def test_a_driver_that_tells_no_memory_is_not_said_to_have_none() -> None:
    machine = machine_of((info("CUDA0", total=0), info("CUDA1")), None, 4 * GIB, Machine())
    assert [(device.free, device.total) for device in machine.devices] == [(None, None), (4 * GIB, 8 * GIB)]
    assert machine.tensor_split(RunSettings()) == (4 * GIB, 4 * GIB)


def test_a_device_named_twice_or_not_there_is_a_usage_error() -> None:
    for wished in (("CUDA0", "CUDA0"), ("CUDA1",), ("CPU",)):
        with pytest.raises(UsageError):
            machine_of((info("CUDA0"), info("CPU", "CPU", "CPU")), wished, 0, Machine())


@pytest.mark.parametrize(
    ("mode", "devices", "maps"),
    [
        ("auto", (), True),
        ("auto", (CARD,), True),
        ("auto", (INTEGRATED,), False),
        ("mmap", (INTEGRATED,), True),
        ("none", (), False),
    ],
)
def test_a_file_is_mapped_where_every_device_can_take_it(mode: str, devices: tuple[Device, ...], maps: bool) -> None:
    assert maps_file(RunSettings(load_mode=mode), devices) is maps


# ---- contexts


def test_contexts_double_up_to_the_trained_one() -> None:
    assert table_contexts(40960, 8192) == (4096, 8192, 16384, 32768, 40960)
    assert table_contexts(8192, 10000) == (4096, 8192, 10000)
    assert table_contexts(2048, 2048) == (2048,)


def one(gib: int, *, fits: bool) -> Cell:
    return Cell(gib * GIB, fits, needed=(gib * GIB,))


def test_the_table_asks_for_every_conversations_own_context() -> None:
    asked: list[RunSettings] = []

    def footprint(settings: RunSettings) -> tuple[Footprint, Source] | None:
        asked.append(settings)
        if settings.type_k == "q4_0":
            return None
        return Footprint(MemoryBreakdown(kv_cache=(settings.n_ctx or 0) * MIB // 2)), "engine"

    found = context_table(RunSettings(n_seq_max=4, n_outputs_max=4), 8192, lambda taken: (pool(taken.host),), footprint)
    assert found == (
        ContextRow(2048, {"f16": one(4, fits=True), "q8_0": one(4, fits=True), "q4_0": None}),
        ContextRow(4096, {"f16": one(8, fits=True), "q8_0": one(8, fits=True), "q4_0": None}),
        ContextRow(8192, {"f16": one(16, fits=False), "q8_0": one(16, fits=False), "q4_0": None}),
    )
    assert {settings.n_ctx for settings in asked} == {8192, 16384, 32768}


FORECAST = Forecast(
    settings=RunSettings(n_ctx=8192),
    pools=(pool(MemoryBreakdown(weights=20 * GIB)),),
    source="engine",
    arithmetic=None,
    engine_trouble=None,
    n_ctx=8192,
    n_layer=32,
    n_ctx_train=8192,
    contexts=(
        ContextRow(4096, {"f16": Cell(10, True), "q8_0": Cell(9, True), "q4_0": None}),
        ContextRow(8192, {"f16": Cell(20, False), "q8_0": Cell(11, True), "q4_0": None}),
    ),
)


# ---- the commands


def test_a_plan_fits_on_eighty_columns(llmrun: Run, eight_b: Path) -> None:
    done = llmrun("plan", str(eight_b), "--ctx", "4096")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("8b.gguf: 8B parameters, ")
    assert lines[1:3] == ["all layers on the CPU", "context 4,096 tokens, KV type f16"]
    assert any("KV cache 512.0 MiB" in line for line in lines)
    assert done.stderr == ""


def test_engine_and_arithmetic_give_the_same_plan(llmrun: Run, eight_b: Path) -> None:
    """All but the compute buffer is the same; that is a band's upper edge, 5 % above what it is most likely."""
    exact, fast = (
        json.loads(llmrun("plan", str(eight_b), how, "--json", "--ctx", "4096", "--device", "none").stdout)
        for how in ("--exact", "--fast")
    )
    assert (exact["source"], fast["source"]) == ("engine", "arithmetic")
    assert exact["arithmetic_total"] == fast["total"]
    parts = [found["pools"][0]["used"] for found in (exact, fast)]
    assert [{name: part[name] for name in SAME} for part in parts] == [{name: parts[0][name] for name in SAME}] * 2
    assert parts[0]["compute"] <= parts[1]["compute"] <= parts[0]["compute"] * 1.05


SAME = ("weights", "kv_cache", "overhead", "mapped")


KEYS = {
    "model",
    "quant",
    "loss",
    "loss_class",
    "prefer",
    "why",
    "where",
    "speed",
    "settings",
    "reasons",
    "n_ctx",
    "n_ctx_allocated",
    "n_layer",
    "n_offloaded",
    "source",
    "engine_trouble",
    "total",
    "arithmetic_total",
    "fits",
    "from_disk",
    "pools",
    "lent",
    "better",
    "runners_up",
    "contexts",
    "draft",
}
KEYS_OF_POOL = {"id", "name", "total", "available", "reserve", "used", "shared", "lender", "headroom"}


def test_the_json_has_these_keys(llmrun: Run) -> None:
    found = json.loads(llmrun("plan", "guide", "--json").stdout)
    assert set(found) == KEYS
    assert set(found["pools"][0]) == KEYS_OF_POOL
    assert set(found["pools"][0]["used"]) == {"weights", "kv_cache", "compute", "overhead", "mapped", "total"}
    assert set(found["contexts"][0]) == {"n_ctx", "f16", "q8_0", "q4_0"}
    assert found["contexts"][0]["f16"].keys() == {"total", "fits", "source", "needed"}


def test_a_device_gets_a_bar_of_its_own(llmrun: Run, eight_b: Path, rpc_server: str) -> None:
    done = llmrun("plan", str(eight_b), "--device", rpc_server, "-ngl", "20", "--ctx", "4096")
    assert f"20 of 33 layers on other machines ({rpc_server})" in done.stdout
    assert [line[2] for line in done.stdout.splitlines() if line.startswith("  █") and "weights" not in line] == [
        "█"
    ] * 2
    assert f"{rpc_server} (" in done.stdout


def test_what_does_not_fit_is_refused_with_what_it_needs(llmrun: Run, tmp_path: Path) -> None:
    """Nobody's machine has the RAM for this one, so it is the same everywhere."""
    done = llmrun("plan", str(write_ghost(tmp_path / "671b.gguf", "deepseek-v3", "F16")), "--ctx", "163840")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: it does not fit: F16 needs 1.2 TiB of RAM at 163,840 tokens with a KV cache of q4_0" in done.stderr
    assert "hint: close other programs, or choose a smaller model or quantization" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--exact", "--fast"), 2, "exclude each other"),
        (("--device", "CUDA7"), 2, "there is no device CUDA7"),
        (("--device", "none", "--device", "CUDA0"), 2, "--device none cannot be given"),
        (("--device", "CUDA0", "--device", "CUDA0"), 2, "CUDA0 is named twice"),
        (("--device", "rpc:nonsense"), 2, "rpc:nonsense"),
        (("--device", "rpc:127.0.0.1:1"), 7, "127.0.0.1:1"),
        (("--parallel", "0"), 2, "--parallel"),
        (("--kv-type", "q3"), 2, "q3"),
    ],
)
def test_mistakes_are_answered(llmrun: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = llmrun("plan", "guide", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_keeps_the_engines_answers_for_the_next_one(llmrun: Run, tmp_path: Path) -> None:
    first = llmrun("plan", "guide", "--device", "none", "--json")
    kept = list(tmp_path.rglob("dry-run/*.answer"))
    again = llmrun("plan", "guide", "--device", "none", "--json")
    assert len(kept) == 3
    assert json.loads(first.stdout)["total"] == json.loads(again.stdout)["total"]


def test_inspect_shows_what_a_file_says(llmrun: Run) -> None:
    lines = llmrun("inspect", "guide").stdout.splitlines()
    assert "architecture  llama (GGUF version 3)" in lines
    assert "parameters    6.6M (6,621,952)" in lines
    assert "context       trained on 2,048 tokens" in lines
    assert any(line.startswith("  Q8_0") for line in lines)


def test_inspect_gives_programs_the_same(llmrun: Run) -> None:
    found = json.loads(llmrun("inspect", "guide:Q4_K_M", "--json").stdout)
    assert (found["quant"], found["n_params"], found["n_layer"], found["n_head"]) == ("Q4_K_M", 6621952, 5, [4, 4])
    assert sum(share["size"] for share in found["mix"]) == found["tensor_bytes"]
    assert found["bpw"] == pytest.approx(found["tensor_bytes"] * 8 / found["n_params"])


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_can_be_inspected(name: str) -> None:
    header = parse_header(ghost(MODELS[name], "Q4_K_M")[0])
    assert isinstance(header, GGUFHeader)
    text = summary_text(summarize(header))
    assert max(map(len, text.splitlines())) <= 80
    assert f"architecture  {MODELS[name].architecture} " in text


def test_labels_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for kind in gguf.LlamaFileType:
        if kind.name != "GUESSED":
            label = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
            assert QUANTS[kind.value] == label


def test_a_plan_of_an_unknown_machine_is_text_too(summary: ModelSummary) -> None:
    forecast = replace(FORECAST, pools=(pool(MemoryBreakdown(weights=1), None),))
    plan = Plan("Q4_K_M", 0.03, "balanced", "good", "host", forecast, None, measured=False, reasons=())
    text = plan_text("x.gguf", summary, plan)
    assert "free memory unknown" in text
    assert "how fast it will be is not known" in text


@pytest.mark.parametrize("lender", [None, Lender("127.0.0.1:50052", USUAL_LINK)])
def test_a_device_with_a_long_name_has_two_lines(summary: ModelSummary, lender: Lender | None) -> None:
    name = "NVIDIA GeForce RTX 4060 Laptop GPU"
    card = Pool("CUDA0", name, 8 * GIB, 8 * GIB - 512 * MIB, GIB, MemoryBreakdown(weights=300 * MIB), lender=lender)
    forecast = replace(FORECAST, pools=(*FORECAST.pools[:1], card))
    plan = Plan("Q4_K_M", 0.03, "balanced", "good", "host", forecast, None, measured=False, reasons=())
    lines = plan_text("x.gguf", summary, plan).splitlines()
    at = lines.index(f"CUDA0 ({name}): needs 300.0 MiB;")
    assert lines[at + 1] == "  7.5 GiB of 8.0 GiB is free"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("owner", ["own", "lent", "both"])
def test_devices_are_called_by_whose_they_are(summary: ModelSummary, owner: Whose) -> None:
    plan = Plan("Q4_K_M", 0.03, "balanced", "good", "host", FORECAST, None, measured=False, reasons=(), owner=owner)
    runner = RunnerUp("Q8_0", 0.0, "experts", 99, 131072, 100 * GIB, 99.0)
    plan = replace(plan, runners_up=(runner,), better=(Better("Q8_0", "devices", GIB, "0"),))
    text = plan_text("x.gguf", summary, plan)
    assert max(map(len, text.splitlines())) <= 80
    assert ("GPU" in text) == (owner == "own")
