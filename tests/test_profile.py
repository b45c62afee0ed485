"""profile: what `llmrun hardware --json` writes is read back as the same machine; what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.hardware import Survey, hardware_figures, look_at_machine
from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceList
from llmrun.errors import NotFoundError, UsageError
from llmrun.hardware.cpu import CpuInfo
from llmrun.hardware.device import Device
from llmrun.hardware.gpu import Gpu, NvidiaDriver
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import Host
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.profile import parse_profile, read_profile
from llmrun.hardware.threads import Threads
from llmrun.hardware.what_if import parse_machine

sizes = st.integers(0, 1 << 45)
texts = st.text(max_size=12)


def written(hardware: Hardware) -> bytes:
    """The bytes that `llmrun hardware --json` prints for a machine."""
    return json.dumps(hardware_figures(Survey(hardware, DeviceList(()), None))).encode()


@st.composite
def memories(draw: st.DrawFn) -> HostMemory:
    total = draw(st.integers(1, 1 << 45))
    limit = draw(st.none() | st.just(total))
    return HostMemory(
        total=total,
        available=draw(st.integers(0, total)),
        limit=limit,
        limited_by=None if limit is None else draw(texts),
        swap_total=draw(st.none() | sizes),
        swap_free=draw(st.none() | sizes),
        machine_total=None if limit is None else draw(st.integers(total, 1 << 45)),
        outside=0 if limit is None else draw(sizes),
    )


counts = st.integers(1, 512)
cpus = st.builds(
    CpuInfo,
    st.none() | texts,
    counts,
    counts,
    st.none() | counts,
    st.frozensets(st.sampled_from(["avx2", "fma", "sve"])),
)
hosts = st.builds(
    Host,
    memories(),
    cpus,
    st.builds(Threads, counts, counts, texts),
    st.none() | st.booleans(),
    st.lists(texts, max_size=2).map(tuple),
)
devices = st.builds(
    Device,
    st.sampled_from(["CUDA0", "CUDA1", "ROCm0", "MTL0", "Vulkan0", "rpc:10.0.0.2:50052"]),
    st.sampled_from(["CUDA", "ROCm", "MTL", "Vulkan", "RPC"]),
    texts,
    st.none() | sizes,
    st.none() | sizes,
    st.booleans(),
)
gpus = st.builds(
    Gpu,
    st.sampled_from(["nvidia", "amd", "intel", "apple", "other"]),
    texts,
    st.none() | texts,
    st.none() | sizes,
    st.none() | sizes,
    st.booleans(),
    st.none() | texts,
    st.none() | texts,
)
machines = st.builds(
    Hardware,
    hosts,
    st.lists(devices, max_size=4, unique_by=lambda device: device.id).map(tuple),
    st.lists(gpus, max_size=2).map(tuple),
    st.none() | st.builds(NvidiaDriver, st.none() | texts, st.none() | texts, st.none() | texts),
    st.lists(texts, max_size=2).map(tuple),
)


@given(machines)
def test_a_profile_is_read_back_to_the_machine_it_was_written_of(machine: Hardware) -> None:
    assert parse_profile(written(machine)) == machine


def test_this_machines_profile_is_this_machine(tmp_path: Path) -> None:
    with Engine() as engine:
        survey = look_at_machine(engine)
    path = tmp_path / "this.json"
    path.write_text(json.dumps(hardware_figures(survey)), "utf-8")
    assert parse_machine(str(path)) == survey.hardware


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_a_profile_in_the_encoding_of_windows_shells_is_read(encoding: str) -> None:
    machine = parse_machine("rtx4090+64GiB")
    start = "\ufeff" if encoding == "utf-16-le" else ""
    assert parse_profile((start + written(machine).decode()).encode(encoding)) == machine


def changed(**changes: Any) -> bytes:
    """A profile with values of its first device or its memory replaced."""
    figures = json.loads(written(parse_machine("rtx4090+64GiB")))
    for name, value in changes.items():
        where = (
            figures["devices"][0] if name in figures["devices"][0] and name != "total" else figures["host"]["memory"]
        )
        where[name] = value
    return json.dumps(figures).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"\xff\xfe{", "decode"),
        (b"\x80", "decode"),
        (b'{"notes": [], "x": ' + b"[" * 5000, "truncated|recursion"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `host`"),
        (b'{"host": null}', "host"),
        (changed(total=0), "of 0 bytes of RAM"),
        (changed(available=-1), "-1 are available"),
        (changed(available=1 << 60), "are available"),
        (changed(total=1.5), "Expected `int`"),
        (changed(total=True), "Expected `int`"),
        (changed(total="64GiB"), "Expected `int`"),
        (changed(limit=0), "its limit is 0 bytes"),
        (changed(free=-5), "-5 of them free"),
        (changed(name=None), "Expected `str`"),
    ],
)
def test_what_is_no_profile_is_refused_with_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile(data)


def test_two_devices_of_one_name_are_refused() -> None:
    figures = json.loads(written(parse_machine("2xrtx3090+64GiB")))
    figures["devices"][1]["id"] = "CUDA0"
    with pytest.raises(UsageError, match="two of its devices have one name"):
        parse_profile(json.dumps(figures).encode())


@given(st.data())
def test_any_prefix_of_a_profile_is_refused(data: st.DataObject) -> None:
    whole = written(parse_machine("rtx4090+64GiB"))
    with pytest.raises(UsageError):
        parse_profile(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(UsageError, match=r"model\.gguf is no profile of a machine") as caught:
        read_profile(path)
    assert caught.value.hint == "`llmrun hardware --json > profile.json` writes one"
    with path.open("r+b") as file:
        file.truncate(1 << 32)  # and no such file is read into memory
    with pytest.raises(UsageError, match=r"more than 1\.0 MiB"):
        read_profile(path)


def test_a_profile_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_profile(tmp_path)
