"""llama_server: settings as the command line of llama.cpp's own server."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.planning.llama_server import llama_server_command
from llmrun.settings import KV_TYPES, LOAD_MODES, Lora, RunSettings
from tests.engine_source import extract_folder

EVERYTHING = RunSettings(
    n_ctx=5000,
    n_seq_max=3,
    kv_unified=True,
    n_outputs_max=3,
    n_batch=1024,
    n_ubatch=256,
    type_k="q8_0",
    type_v="q4_0",
    flash_attn=True,
    swa_full=True,
    offload_kqv=False,
    devices=("CUDA1", "rpc:10.0.0.2:50052/1", "CUDA0", "rpc:10.0.0.3:50052", "rpc:10.0.0.2:50052"),
    n_gpu_layers=20,
    tensor_split=(12.0, 0.1, 0.0, 3.0, 5.0),
    cpu_experts=7,
    load_mode="mmap_mlock",
    repack=True,
    n_threads=6,
    n_threads_batch=8,
    affinity="nodes",
    loras=(Lora("/a.gguf"), Lora("/b.gguf", 0.5)),
    projector="/eye.gguf",
    n_draft_max=5,
    draft="/draft.gguf",
)


def flags(settings: RunSettings) -> dict[str, str]:
    """The command's flags with their values; "" where a flag has none."""
    words = llama_server_command("model.gguf", settings)[1:]
    found: dict[str, str] = {}
    for word in words:
        if word.startswith("-"):
            found[word] = ""
        else:
            found[list(found)[-1]] = word
    return found


def test_every_setting_is_on_the_command_line() -> None:
    assert shlex.join(llama_server_command("/models/a b.gguf", EVERYTHING)) == (
        "llama-server -m '/models/a b.gguf' --rpc 10.0.0.2:50052,10.0.0.3:50052 -dev CUDA1,RPC1,CUDA0,RPC2,RPC0 -ngl 20"
        " -ts 12,0.1,0,3,5 --n-cpu-moe 7 -c 5000 -np 3 --kv-unified -b 1024 -ub 256 -ctk q8_0 -ctv q4_0 -fa on"
        " --swa-full --no-kv-offload --load-mode mmap+mlock --repack --lora /a.gguf --lora-scaled /b.gguf:0.5"
        " --mmproj /eye.gguf --mmproj-offload -md /draft.gguf --spec-type draft-simple --spec-draft-n-max 5"
        " -devd CUDA1 -ngld all -ctkd q8_0 -ctvd q4_0 -t 6 -tb 8 --numa distribute"
        " --fit off --cache-ram 0 --ctx-checkpoints 0"
    )


def test_what_is_not_set_is_said_too_since_the_servers_defaults_are_others() -> None:
    assert shlex.join(llama_server_command("m.gguf", RunSettings(), n_ctx_train=4096)) == (
        "llama-server -m m.gguf -ngl all -c 4096 -np 1 --no-kv-unified -b 512 -ub 128 -ctk f16 -ctv f16 -fa auto"
        " --load-mode auto --no-repack -t 1 -tb 1 --fit off --cache-ram 0 --ctx-checkpoints 0"
    )


def test_a_model_on_the_cpu_alone_is_given_no_device() -> None:
    said = flags(RunSettings(devices=(), n_gpu_layers=0))
    assert (said["-dev"], said["-ngl"]) == ("none", "0")
    assert "--rpc" not in said


def test_a_draft_lies_where_the_model_has_its_first_layers() -> None:
    remote = RunSettings(devices=("rpc:a:1", "rpc:b:1/1", "CUDA0"), draft="/d.gguf", n_draft_max=7)
    assert (flags(remote)["-devd"], flags(remote)["-ngld"]) == ("RPC0", "all")
    for host in (replace(remote, n_gpu_layers=0), replace(remote, devices=())):
        assert (flags(host)["-devd"], flags(host)["-ngld"]) == ("none", "0")
    assert "--spec-type" not in flags(replace(remote, draft=None))


CHANGES: dict[str, object] = {field.name: getattr(EVERYTHING, field.name) for field in fields(RunSettings)}


@pytest.mark.parametrize(
    "name", [name for name in CHANGES if name not in ("n_outputs_max", "n_draft_max")]
)  # its own business
def test_no_setting_is_left_out(name: str) -> None:
    base = RunSettings(devices=("CUDA0",), n_ctx=4096)
    changed = RunSettings(**{"devices": ("CUDA0",), "n_ctx": 4096, name: CHANGES[name]})  # type: ignore[arg-type]
    assert llama_server_command("m", changed) != llama_server_command("m", base)


@given(st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=8))
def test_a_split_is_written_so_that_it_is_read_back_exactly(parts: list[float]) -> None:
    said = flags(RunSettings(tensor_split=tuple(parts)))["-ts"]
    assert [float(part) for part in said.split(",")] == parts


def test_llama_cpp_knows_every_flag_and_every_value() -> None:
    """Against common/arg.cpp and common.h of the engine that is installed."""
    source = (extract_folder("common") / "arg.cpp").read_text("utf-8")
    known = set(re.findall(r'"(--?[a-z][a-z-]*)"', source))
    used = {*flags(EVERYTHING), *flags(RunSettings(devices=()))}
    assert used - known == set()
    assert len(used) > 20
    modes = set(re.findall(r'value == "([a-z+]+)"\)\s*\{ params\.load_mode', source))
    assert {flags(RunSettings(load_mode=mode))["--load-mode"] for mode in LOAD_MODES} == modes
    types = re.search(r"kv_cache_types = \{(.*?)\}", source, re.DOTALL)
    assert types is not None
    assert {f"GGML_TYPE_{name.upper()}" for name in KV_TYPES} <= set(re.findall(r"\w+", types[1]))
