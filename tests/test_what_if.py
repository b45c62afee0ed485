"""what_if, cards: machines in words, and the cards that are known by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.hardware.cards import Card, find_card, known_cards, nearest_cards
from llmrun.hardware.cpu import CpuInfo
from llmrun.hardware.device import Device
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import Host
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.hardware.what_if import parse_machine
from llmrun.planning import device_speeds
from llmrun.planning.device_speeds import device_rates

MIB, GIB = 1 << 20, 1 << 30
KEEPS = 512 * MIB
X86 = frozenset({"pni", "ssse3", "avx", "avx2", "f16c", "fma", "bmi2"})


def ids(text: str) -> list[str]:
    return [device.id for device in parse_machine(text).devices]


def cuda(number: int, name: str, gib: int) -> Device:
    return Device(f"CUDA{number}", "CUDA", name, gib * GIB, gib * GIB - KEEPS)


def test_a_card_and_ram_are_a_whole_machine() -> None:
    assert parse_machine("rtx4090+64GiB") == Hardware(
        Host(
            HostMemory(64 * GIB, 60 * GIB),
            CpuInfo(None, 8, 8, None, X86),
            Threads(8, 8, "8 physical cores: 8 threads"),
        ),
        (cuda(0, "NVIDIA GeForce RTX 4090", 24),),
        notes=("of 64.0 GiB of RAM, 60.0 GiB are taken for available: free= says otherwise",),
    )


def test_amounts_by_key_are_taken_as_they_are_said() -> None:
    machine = parse_machine("ram=16GiB, free=12GiB, vram=8GiB, vram=24GB, cores=6")
    assert machine.host.memory == HostMemory(16 * GIB, 12 * GIB)
    assert machine.host.cpu.physical_cores == machine.host.threads.decode == 6
    assert machine.devices == (
        Device("CUDA0", "CUDA", "GPU of 8.0 GiB", 8 * GIB, 8 * GIB - KEEPS),
        Device("CUDA1", "CUDA", "GPU of 22.4 GiB", 24 * 10**9, 24 * 10**9 - KEEPS),
    )
    assert machine.notes == ()


def test_several_cards_are_numbered_by_backend_in_the_order_they_are_said() -> None:
    assert parse_machine("rtx4090+2x rtx3060+64GiB").devices == (
        cuda(0, "NVIDIA GeForce RTX 4090", 24),
        cuda(1, "NVIDIA GeForce RTX 3060", 12),
        cuda(2, "NVIDIA GeForce RTX 3060", 12),
    )
    assert ids("rx7900xtx+32GiB+rtx3060+2xrx7600+arca770") == ["ROCm0", "CUDA0", "ROCm1", "ROCm2", "Vulkan0"]
    assert ids("16GiB") == []


@pytest.mark.parametrize(
    ("ram", "usable"),
    [("16GiB", 10922.67), ("32GiB", 21845.33), ("64GiB", 49152.0), ("96GiB", 73728.0)],  # as Metal says, in MiB
)
def test_a_mac_shares_its_memory_and_metal_leaves_a_part_of_it_alone(ram: str, usable: float) -> None:
    machine = parse_machine(f"m3max+{ram}")
    size = machine.devices[0].total
    assert size is not None
    assert abs(size / MIB - usable) < 0.01
    assert machine.devices == (Device("MTL0", "MTL", "Apple M3 Max", size, size, unified=True),)
    assert machine.host.cpu.name == "Apple M3 Max"
    assert machine.own_memory == ()
    assert parse_machine(f"unified={ram}").devices == (Device("MTL0", "MTL", "Apple GPU", size, size, unified=True),)


@given(st.integers(1, 1 << 14))
def test_available_ram_grows_with_the_ram_and_is_never_all_of_it(gib: int) -> None:
    less, more = (parse_machine(f"ram={size}GiB").host.memory for size in (gib, gib + 1))
    assert 0 < less.available < more.available
    assert less.total * 4 // 5 <= less.available <= less.total - min(less.total // 5, 4 * GIB)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("rtx4099+64GiB", "'rtx4099' is no card", "known are rtx4090"),
        ("m3maxx+64GiB", "'m3maxx' is no card", "known are m3max"),
        ("2xrtx309+64GiB", "'2xrtx309' is no card", "rtx3090"),
        ("dishwasher+64GiB", "'dishwasher' is no card", "write it as rtx4090+64GiB"),
        ("rtx4090+64", "'64' is no amount of RAM without a unit", "write it as 64GiB"),
        ("rtx4090 64GiB", "'rtx4090 64GiB' is no card", "known are rtx4090"),
        ("", "'' is no card", "write it as"),
        ("rtx4090", "does not say how much RAM", "write it as"),
        ("rtx4090+64GiB+32GiB", "ram is said twice", "write it as"),
        ("unified=32GiB,ram=32GiB", "ram is said twice", "write it as"),
        ("cores=4,cores=4,8GiB", "cores is said twice", "write it as"),
        ("vrm=8GiB,ram=16GiB", "'vrm' says nothing", "known are vram"),
        ("ram=16", "ram=16 is no amount", "write it as 16GiB"),
        ("ram=16G", "'16G' can mean two sizes", "16GiB"),
        ("ram=,vram=8GiB", "'' is not a size", "write it as 16GiB"),
        ("ram=8GiB,vram=0GiB", "vram=0GiB is no amount", "write it as 16GiB"),
        ("ram=8GiB,free=9GiB", "of 8.0 GiB of RAM, 9.0 GiB cannot be free", None),
        ("ram=8GiB,cores=0", "cores=0", "cores=8"),
        ("ram=8GiB,cores=four", "cores=four", "cores=8"),
        ("17xrtx3090+64GiB", "1 to 16 cards", None),
        ("0xrtx3090+64GiB", "1 to 16 cards", None),
        ("9xrtx3090+9xt4+64GiB", "18 devices are too many", None),
        ("2xm3max+64GiB", "has that one GPU, not Apple M3 Max", "m3max+64GiB"),
        ("m3max+rtx3090+64GiB", "not Apple M3 Max and NVIDIA GeForce RTX 3090", "m3max+64GiB"),
    ],
)
def test_what_is_no_machine_is_refused_with_what_to_type(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_machine(text)
    assert message in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


PIECES = ("2x", "rtx", "4090", "+", "64GiB", "=", ",", "vram", "free", "cores", "m3max", "٣", "×", "0", " ")


@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_any_text_is_a_machine_or_a_usage_error(text: str) -> None:
    if re.search(r"[/\\]|\.json", text):  # files are another test's
        return
    try:
        machine = parse_machine(text)
    except UsageError:
        return
    assert machine.host.memory.available <= machine.host.memory.total


@pytest.mark.parametrize(
    "text",
    [
        *(
            "rtx4060ti-16gb",
            "RTX 4060 Ti 16GB",
            "4060ti-16gib",
            "NVIDIA GeForce RTX 4060 Ti (16GB)",
            "rtx 4060-ti 16 GB",
        ),
    ],
)
def test_a_card_is_found_however_its_name_is_written(text: str) -> None:
    assert find_card(text) == Card("NVIDIA GeForce RTX 4060 Ti", "CUDA", 16 * GIB)


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        *(("rtx3060", 12), ("rtx3060-8gb", 8), ("rtx3060-laptop", 6), ("rtx4060ti", 8), ("rtx4090-laptop", 16)),
        *(("a100", 40), ("a100-80gb", 80), ("NVIDIA A100 80GB", 80), ("h100", 80), ("a6000", 48), ("Tesla T4", 15)),
        *(("l4", 22.5), ("Quadro RTX 6000", 24), ("rtx6000ada", 48), ("rx7900xtx", 24), ("mi300x", 192)),
        *(("arca770", 16), ("Intel(R) Arc(TM) A770 Graphics", 16), ("gtx1080ti", 11), ("7900 xt", 20)),
    ],
)
def test_a_card_has_the_memory_of_its_data_sheet(text: str, gib: float) -> None:
    card = find_card(text)
    assert card is not None
    assert card.memory == gib * GIB


def test_every_name_to_type_finds_its_card() -> None:
    assert {name: find_card(name) for name in known_cards()} == dict(known_cards())


def test_the_nearest_names_can_be_typed() -> None:
    near = nearest_cards("rtx 4090 lapto")
    assert near[0] == "rtx4090-laptop"
    assert len(near) == 3
    assert set(near) <= set(known_cards())


@pytest.mark.parametrize("row", device_speeds._DEVICES)
def test_every_device_whose_speed_is_known_is_a_card_with_that_speed(row: str) -> None:
    card = find_card(row)
    assert card is not None
    assert device_rates(card.name) == device_rates(row) is not None


def test_a_laptops_card_has_no_desktop_speed() -> None:
    cards = [card for name, card in known_cards().items() if "laptop" in name]
    assert len(cards) > 18
    assert all(device_rates(card.name) is None for card in cards)


def test_a_path_is_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    path.write_text("{}")
    with pytest.raises(UsageError, match="no profile of a machine"):
        parse_machine(str(path))
