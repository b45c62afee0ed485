"""`llmrun chat` without a model: what is suggested to which machine, and one key to choose."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.catalog import entries, find
from llmrun.cli.choosing import suggestion_lines
from llmrun.hardware.what_if import parse_machine
from llmrun.hub.presence import Presence
from llmrun.memory.placement import place_layers
from llmrun.planning.policy import USABLE
from llmrun.planning.typical import Typical
from llmrun.planning.work import ModelWork, model_work
from llmrun.settings import RunSettings
from llmrun.site import Site, site_of
from llmrun.speeds import Speeds
from llmrun.suggesting import MOST, Suggestion, capability, suggest
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS, PUBLISHED
from tests.hub_program import environment
from tests.hub_server.fault import Fault
from tests.hub_server.repos import guide_repo
from tests.hub_server.server import HubServer

GIB = 1 << 30
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MACHINES = ("ram=2GiB", "ram=4GiB", "ram=16GiB", "ram=16GiB,vram=8GiB", "rtx4090+64GiB", "m3max+64GiB", "2xh100+1TiB")


def machine(words: str) -> tuple[Site, Speeds]:
    site = site_of(parse_machine(words))
    return site, Speeds(None, site.threads.decode)


def suggested(words: str, here: tuple[str, ...] = (), *, fetch: bool = True) -> tuple[Suggestion, ...]:
    return suggest(entries(), *machine(words), here, fetch=fetch)


@pytest.mark.parametrize("words", MACHINES)
def test_what_is_suggested_fits_is_fast_enough_and_comes_best_first(words: str) -> None:
    found = suggested(words)
    site, _ = machine(words)
    free = site.memory.available + sum(device.free or 0 for device in site.devices if not device.unified)
    assert len(found) <= MOST
    assert all(one.decode >= USABLE and one.memory < free for one in found)
    sizes = [capability(entry) for one in found if (entry := find(one.name)) is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert len({one.name for one in found}) == len(found)


def test_a_laptop_is_offered_several_sizes_and_a_small_board_nothing_too_large() -> None:
    laptop = suggested("ram=16GiB")
    assert len(laptop) >= 3
    assert laptop[0].memory > 2 * laptop[-1].memory
    assert all(one.memory < 2.1 * GIB for one in suggested("ram=4GiB"))
    assert suggested("ram=1GiB") == ()


def test_a_machine_with_a_card_is_offered_more_and_told_where_it_runs() -> None:
    without, with_card = suggested("ram=16GiB"), suggested("ram=16GiB,vram=24GiB")
    assert not any(one.on_gpu for one in without)
    assert any(one.on_gpu for one in with_card)
    assert with_card[0].memory > without[0].memory
    assert suggested("m3max+64GiB")[0].on_gpu


def test_what_is_here_is_said_to_be_and_needs_no_suggestion_of_the_catalog() -> None:
    entry = find("llama3.2:3b")
    assert entry is not None
    assert not entry.suggested
    here = suggested("ram=16GiB", (entry.repo_id,), fetch=False)
    assert [(one.name, one.here) for one in here] == [("llama3.2:3b", True)]
    assert "llama3.2:3b" not in [one.name for one in suggested("ram=16GiB")]


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 300))
def test_more_memory_never_takes_the_best_away(some: int, more: int) -> None:
    def best(gib: int) -> float:
        found = suggested(f"ram={gib}GiB")
        entry = find(found[0].name) if found else None
        return 0.0 if entry is None else capability(entry)

    assert best(some) <= best(some + more)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-8b", "llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b"])
def test_the_estimate_is_near_what_the_header_says(name: str) -> None:
    """Against the work and weights of published shapes: within a third, which is less than the speed's own band."""
    header = quantized(MODELS[name], "Q4_K_M")
    work = model_work(header)
    active = sum(product.n_weights * product.share for product in work.products())
    typical = Typical(PUBLISHED[name].n_parameters, round(active))
    assert typical.size == pytest.approx(header.file_size, rel=0.33)
    site, speeds = machine("ram=64GiB")
    assert decode(typical.work(), site, speeds) == pytest.approx(decode(work, site, speeds), rel=0.33)


def decode(work: ModelWork, site: Site, speeds: Speeds) -> float:
    way = RunSettings(n_threads=site.threads.decode, n_threads_batch=site.threads.batch)
    speed = speeds.predict(work, way, place_layers(len(work.layers), 0, ()), ())
    assert speed is not None
    return speed.decode


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("words", MACHINES[1:])
def test_the_list_fits_a_terminal_and_has_guide_last(words: str, width: int) -> None:
    found = suggested(words)
    lines = suggestion_lines(found, width)
    assert max(map(len, lines)) < width
    assert "guide" in lines[-2]
    for index, one in enumerate(found, 1):
        row = next(line for line in lines if line[1:3] == f"{index} ")
        assert one.name[:17] in row
        assert "GiB" in row or "MiB" in row
        assert f"{one.decode:.0f} t/s" in row


# ---- the program


@pytest.fixture
def catalog_hub(hub: HubServer) -> HubServer:
    """A Hub where every repository that is suggested has guide in it."""
    for entry in entries():
        if entry.suggested:
            hub.add(guide_repo(entry.repo_id))
    return hub


Open = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def open_chat(tmp_path: Path) -> Iterator[Open]:
    opened: list[pexpect.spawn[str]] = []

    def start(environ: dict[str, str], *arguments: str, columns: int = 80) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-P", "-m", "llmrun.cli.main", "chat", *arguments],
            env=environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": str(columns)},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=30,
        )
        opened.append(child)
        return child

    yield start
    for child in opened:
        child.close(force=True)


def test_enter_takes_the_best_which_is_fetched_and_talks(
    catalog_hub: HubServer, tmp_path: Path, open_chat: Open
) -> None:
    chat = open_chat(environment(catalog_hub, tmp_path))
    chat.expect("Enter takes 1, q leaves")
    rows = re.findall(r"^ ([1-6g])  (\S+)", ESCAPES.sub("", chat.before or ""), re.MULTILINE)
    assert rows[-1] == ("g", "guide")
    chat.send("\r")
    chat.expect(re.escape(f"looking for {rows[0][1]}"))
    chat.expect(">>>")
    asked = [entry.path for entry in catalog_hub.log if "resolve" in entry.path]
    best = find(rows[0][1])
    assert best is not None
    assert any(best.repo_id in path for path in asked)


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("\x03", 130)])
def test_a_key_leaves(catalog_hub: HubServer, tmp_path: Path, open_chat: Open, key: str, status: int) -> None:
    chat = open_chat(environment(catalog_hub, tmp_path), columns=40)
    chat.expect("q leaves")
    chat.send("x")  # which means nothing, and does nothing
    chat.send(key)
    chat.expect(pexpect.EOF)
    chat.wait()
    assert chat.exitstatus == status


def test_g_is_guide_and_other_keys_choose_by_number(catalog_hub: HubServer, tmp_path: Path, open_chat: Open) -> None:
    chat = open_chat(environment(catalog_hub, tmp_path))
    chat.expect("q leaves")
    chat.send("g")
    chat.expect("looking for guide")
    chat.expect(">>>")
    other = open_chat(environment(catalog_hub, tmp_path))
    other.expect(r" 2  (\S+)")
    assert isinstance(other.match, re.Match)
    second = other.match[1]
    other.expect("q leaves")
    other.send("2")
    other.expect(re.escape(f"looking for {second}"))


def test_without_the_hub_it_is_guide_at_once(tmp_path: Path, open_chat: Open, hub: HubServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    chat = open_chat(environment(hub, tmp_path) | {"HF_ENDPOINT": nobody})
    chat.expect(">>>")
    assert "no model was named" not in (chat.before or "")
    assert "guide: " in (chat.before or "")


def test_a_hub_that_is_slow_is_waited_for_a_second(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.faults.append(Fault("hub", times=9, hang=True))
    asked = Presence(0.3)
    began = time.monotonic()
    assert not asked.answers()
    assert time.monotonic() - began < 2.0
    hub.faults.clear()
    assert Presence(10.0).answers()


def test_a_page_that_is_not_the_hubs_is_no_answer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.faults.append(Fault("hub", page=True))
    assert not Presence(10.0).answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not Presence(10.0).answers()


@pytest.mark.parametrize("flag", ["--quiet", "--offline"])
def test_whoever_wants_quiet_or_no_network_is_not_asked(
    catalog_hub: HubServer, tmp_path: Path, open_chat: Open, flag: str
) -> None:
    chat = open_chat(environment(catalog_hub, tmp_path), flag)
    chat.expect(">>>")
    assert "no model was named" not in (chat.before or "")
    assert catalog_hub.log == []


def test_without_a_terminal_it_is_guide_and_nobody_is_asked(catalog_hub: HubServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", "chat", "--temp", "0"],
        input="what is a kv cache?\n",
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(catalog_hub, tmp_path),
        check=True,
    )
    assert "KV cache" in done.stdout
    assert done.stderr == ""
    assert catalog_hub.log == []
