"""hardware: GPUs as the PCI bus tells of them, and what the vendors' tools add to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from llmrun.hardware.amd import parse_kfd, read_kfd
from llmrun.hardware.gpu import Gpu, GpuReport, NvidiaDriver
from llmrun.hardware.gpus import merge_nvidia, name_displays, read_gpus
from llmrun.hardware.nvidia import (
    NvidiaAnswer,
)
from llmrun.hardware.pci import parse_pci, parse_pci_names, read_pci, read_pci_names

CAPTURED = Path(__file__).parent / "golden" / "hardware" / "gpus"
MIB, GIB = 1 << 20, 1 << 30


def captured(name: str) -> str:
    return (CAPTURED / name).read_text("utf-8")


RTX_4090 = Gpu(
    "nvidia", "NVIDIA GeForce RTX 4090", "0000:01:00.0", 24564 * MIB, 23651 * MIB, driver="nvidia", target="8.9"
)
RTX_3060 = Gpu(
    "nvidia", "NVIDIA GeForce RTX 3060", "0000:41:00.0", 12288 * MIB, 12041 * MIB, driver="nvidia", target="8.6"
)


NVIDIA_3090 = {"class": "0x030000", "vendor": "0x10de", "device": "0x2204", "driver": "nouveau"}
AMD_7900 = {
    "class": "0x030000",
    "vendor": "0x1002",
    "device": "0x744c",
    "driver": "amdgpu",
    "product_name": "",
    "mem_info_vram_total": "25753026560",
    "mem_info_vram_used": "753026560",
    "mem_info_vram_vendor": "samsung",
    "mem_info_gtt_total": "33585528832",
    "mem_info_gtt_used": "41943040",
}
AMD_780M = {
    "class": "0x030000",
    "vendor": "0x1002",
    "device": "0x15bf",
    "driver": "amdgpu",
    "mem_info_vram_total": "536870912",
    "mem_info_vram_used": "301989888",
    "mem_info_gtt_total": "14583447552",
    "mem_info_gtt_used": "41943040",
}
UHD_770 = {"class": "0x030000", "vendor": "0x8086", "device": "0x4680", "driver": "i915"}
ARC_A770 = {"class": "0x030000", "vendor": "0x8086", "device": "0x56a0", "driver": "i915"}
MI300X = {"class": "0x120000", "vendor": "0x1002", "device": "0x74a1", "driver": "amdgpu"}
GAUDI = {"class": "0x120000", "vendor": "0x1da3", "device": "0x1020", "driver": "habanalabs"}
QEMU_VGA = {"class": "0x030000", "vendor": "0x1234", "device": "0x1111", "driver": "bochs-drm"}
ETHERNET = {"class": "0x020000", "vendor": "0x8086", "device": "0x15f3"}


def write_bus(root: Path, devices: Mapping[str, Mapping[str, str]], cards: Mapping[str, str] | None = None) -> Path:
    """A sysfs with these devices; cards: files below drm/card0 of them."""
    for address, files in devices.items():
        folder = root / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        for name, text in files.items():
            if name == "driver":
                (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{text}")
            else:
                (folder / name).write_text(text + "\n")
    for path, text in (cards or {}).items():
        place = root / "sys/bus/pci/devices" / path
        place.parent.mkdir(parents=True)
        place.write_text(text + "\n")
    return root


def write_tables(root: Path) -> Path:
    place = root / "usr/share/misc/pci.ids"
    place.parent.mkdir(parents=True)
    place.write_text(captured("pci.ids"))
    return root


def seen(root: Path) -> tuple[Gpu, ...]:
    return name_displays(parse_pci(read_pci(root)), read_pci_names(root), parse_kfd(read_kfd(root)))


def test_only_displays_and_amds_accelerators_are_gpus(tmp_path: Path) -> None:
    addresses = (f"0000:{n:02x}:00.0" for n in range(9))
    bus = dict(zip(addresses, (ETHERNET, MI300X, GAUDI, QEMU_VGA), strict=False))
    assert [(gpu.vendor, gpu.name) for gpu in seen(write_bus(tmp_path, bus))] == [
        ("amd", "AMD GPU 0x74a1"),
        ("other", "display adapter 1234:1111"),
    ]


def test_a_card_of_amd_has_its_memory_its_name_and_its_target(tmp_path: Path) -> None:
    root = write_tables(write_bus(tmp_path, {"0000:03:00.0": AMD_7900}))
    for node, name in enumerate(("kfd.cpu-node.txt", "kfd.rx-7900-xtx.txt")):
        folder = root / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "properties").write_text(captured(name))
    assert seen(root) == (
        Gpu(
            "amd",
            "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]",
            "0000:03:00.0",
            25753026560,
            25000000000,
            driver="amdgpu",
            target="gfx1100",
        ),
    )


def test_integrated_graphics_have_no_memory_of_their_own(tmp_path: Path) -> None:
    root = write_tables(write_bus(tmp_path, {"0000:c5:00.0": AMD_780M, "0000:00:02.0": UHD_770}))
    assert seen(root) == (
        Gpu("intel", "AlderLake-S GT1", "0000:00:02.0", unified=True, driver="i915"),
        Gpu("amd", "Phoenix1", "0000:c5:00.0", unified=True, driver="amdgpu"),
    )


def test_a_card_of_intel_tells_its_memory_where_its_driver_does(tmp_path: Path) -> None:
    told = {"0000:03:00.0/drm/card0/lmem_total_bytes": "16225243136"}
    root = write_tables(write_bus(tmp_path, {"0000:03:00.0": ARC_A770, "0000:04:00.0": ARC_A770}, told))
    assert [(gpu.name, gpu.total, gpu.unified) for gpu in seen(root)] == [
        ("DG2 [Arc A770]", 16225243136, False),
        ("DG2 [Arc A770]", None, False),
    ]


def test_names_come_from_the_table_and_not_from_its_subsystems_or_classes() -> None:
    wanted = {(0x10DE, 0x2204), (0x10DE, 0x147D), (0x8086, 0x0000), (0x1002, 0x15BF)}
    assert parse_pci_names(captured("pci.ids"), wanted) == {
        (0x10DE, 0x2204): "GA102 [GeForce RTX 3090]",
        (0x1002, 0x15BF): "Phoenix1",
    }


@pytest.mark.parametrize(
    ("version", "place", "expected"),
    [
        (110000, 768, {"0000:03:00.0": "gfx1100"}),
        (90010, 0xC100, {"0000:c1:00.0": "gfx90a"}),
        (90402, 0x051F, {"0000:05:03.7": "gfx942"}),
        (110501, 0xC500, {"0000:c5:00.0": "gfx1151"}),
        (0, 0, {}),
    ],
)
def test_amds_compute_driver_names_the_target(version: int, place: int, expected: dict[str, str]) -> None:
    assert parse_kfd([f"simd_count 4\ngfx_target_version {version}\nlocation_id {place}\ndomain 0\n"]) == expected


def test_the_drivers_word_takes_the_place_of_the_buss() -> None:
    on_bus = (
        Gpu("intel", "UHD", "0000:00:02.0", unified=True, driver="i915"),
        Gpu("nvidia", "AD102", "0000:01:00.0", driver="nvidia"),
    )
    driver = NvidiaDriver("550.54.14", "12.4")
    merged = merge_nvidia(on_bus, NvidiaAnswer((RTX_4090, RTX_3060), driver))
    assert merged == GpuReport((on_bus[0], RTX_4090, RTX_3060), driver)


def test_without_addresses_the_drivers_list_stands_for_all_of_its_own() -> None:
    listed = (Gpu("nvidia", "NVIDIA GeForce RTX 4090", total=24 * GIB), Gpu("intel", "UHD", unified=True))
    assert merge_nvidia(listed, NvidiaAnswer((RTX_4090,), None)).gpus == (listed[1], RTX_4090)
    assert merge_nvidia(listed, NvidiaAnswer()).gpus == listed


def no_driver(root: Path) -> NvidiaAnswer:
    return NvidiaAnswer()


def test_a_gpu_without_its_driver_is_found_all_the_same(tmp_path: Path) -> None:
    root = write_tables(write_bus(tmp_path, {"0000:01:00.0": NVIDIA_3090}))
    assert read_gpus(root, "linux", no_driver).gpus == (
        Gpu("nvidia", "GA102 [GeForce RTX 3090]", "0000:01:00.0", driver="nouveau"),
    )


def test_a_machine_where_nothing_can_be_seen_says_so_and_no_more(tmp_path: Path) -> None:
    report = read_gpus(tmp_path, "linux", no_driver)
    assert (report.gpus, report.notes) == ((), ("the PCI bus cannot be seen",))
    assert read_gpus(write_bus(tmp_path, {"0000:00:03.0": ETHERNET}), "linux", no_driver).notes == ()
