"""hardware.device_wish: a device's name, and how much of it may be used."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import UsageError
from llmrun.hardware.device import Device
from llmrun.hardware.device_wish import MIN_LIMIT, DeviceWish, format_device, limited, parse_device

MIB, GIB = 1 << 20, 1 << 30
CARD = Device("CUDA0", "CUDA", "a card", 24 * GIB, 20 * GIB)
LENT = Device("rpc:127.0.0.1:50052", "RPC", "another process", 64 * GIB, 60 * GIB)
SILENT = Device("Vulkan0", "Vulkan", "a card whose driver tells nothing", None, None)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("CUDA0", DeviceWish("CUDA0")),
        ("CUDA0=6GiB", DeviceWish("CUDA0", 6 * GIB)),
        (" CUDA0 ", DeviceWish("CUDA0")),
        ("MTL0=1.5 GiB", DeviceWish("MTL0", 1536 * MIB)),
        ("rpc:127.0.0.1:50052=512MiB", DeviceWish("rpc:127.0.0.1:50052", 512 * MIB)),
        ("rpc:[::1]:50052/1=8GB", DeviceWish("rpc:[::1]:50052/1", 8_000_000_000)),
        ("CUDA0=1048576", DeviceWish("CUDA0", MIB)),
    ],
)
def test_a_device_may_have_a_limit(text: str, wish: DeviceWish) -> None:
    assert parse_device(text) == wish


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no device"),
        ("=6GiB", "names no device"),
        ("CUDA 0", "names no device"),
        ("CUDA0,CUDA1", "names no device"),
        ("CUDA0\n=6GiB", "names no device"),
        ("CUDA0=", "is not a size"),
        ("CUDA0=lots", "is not a size"),
        ("CUDA0=-1GiB", "is not a size"),
        ("CUDA0=6G", "can mean two sizes"),
        ("CUDA0=6", "6 B of CUDA0 is too little"),
        ("CUDA0=0GiB", "0 B of CUDA0 is too little"),
        ("CUDA0=1GiB=2GiB", "has two limits"),
    ],
)
def test_what_is_neither_a_name_nor_a_limit_is_the_users_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_device(text)
    assert caught.value.hint


IDS = st.text(string.ascii_letters + string.digits + ":./[]_-", min_size=1)
WISHES = st.builds(DeviceWish, IDS, st.none() | st.integers(MIN_LIMIT, 1 << 50))


@given(WISHES)
def test_a_wish_is_read_back_as_it_was_written(wish: DeviceWish) -> None:
    assert parse_device(format_device(wish)) == wish


@given(st.integers(1, 4096))
def test_a_size_in_whole_units_is_written_in_them(size: int) -> None:
    assert format_device(parse_device(f"CUDA0={size}MiB")) in (f"CUDA0={size}MiB", f"CUDA0={size // 1024}GiB")


def test_a_limit_lowers_what_is_free_and_never_raises_it() -> None:
    wishes = [DeviceWish("CUDA0", 6 * GIB), DeviceWish(LENT.id, 100 * GIB)]
    assert limited([CARD, LENT], wishes) == (replace(CARD, free=6 * GIB), LENT)


def test_a_device_that_does_not_tell_what_is_free_has_its_limit_free() -> None:
    assert limited([SILENT], [DeviceWish("Vulkan0", GIB)]) == (replace(SILENT, free=GIB),)
    assert limited([SILENT], [DeviceWish("Vulkan0")]) == (SILENT,)


@given(st.lists(st.sampled_from([CARD, LENT, SILENT]), unique=True), st.lists(WISHES), st.integers(MIN_LIMIT, GIB))
def test_limits_change_free_memory_and_nothing_else(devices: list[Device], wishes: list[DeviceWish], low: int) -> None:
    lowered = limited(devices, [*wishes, DeviceWish("CUDA0", low), DeviceWish("CUDA0", low + 1)])
    assert [replace(device, free=None) for device in lowered] == [replace(device, free=None) for device in devices]
    assert all(device.free == low for device in lowered if device.id == "CUDA0")
