"""LoRA adapters: refused with words where they do not fit, counted to the byte where they do, and run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrun.adapters import check_adapters, parse_lora, parse_loras, read_adapters
from llmrun.engine.client import Engine
from llmrun.engine.questions import Questions
from llmrun.errors import GGUFError, LLMRunError, UsageError
from llmrun.gguf.adapter import parse_adapter
from llmrun.gguf.encode import encode_header, without_arrays, without_tokenizer
from llmrun.gguf.header import GGUFHeader, TensorInfo
from llmrun.gguf.parse import parse_header
from llmrun.gguf.source import read_header
from llmrun.hardware.device import Device
from llmrun.memory.asked import footprint_of
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.memory.estimate import Estimator, Machine
from llmrun.memory.overhead import Overhead
from llmrun.planning.llama_server import llama_server_command
from llmrun.planning.plan_file import parse_plan
from llmrun.settings import Lora, RunSettings
from scripts.architectures.shapes import MODELS, small
from scripts.architectures.write import ghost, write
from tests.conftest import ONE_THREAD, ask, figures
from tests.lora_files import is_matrix, write_adapter

HOST = replace(ONE_THREAD, devices=(), load_mode="none", n_ctx=1024)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def asker() -> Iterator[Engine]:
    """An engine that never loads anything."""
    with Engine() as engine:
        yield engine


@cache
def shape(name: str) -> GGUFHeader:
    """The header of a published model, with no draft layers: the engine loads none."""
    header = parse_header(ghost(MODELS[name])[0])
    assert isinstance(header, GGUFHeader)
    return header


@pytest.fixture(scope="module")
def guide_adapter(guide_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(
        tmp_path_factory.mktemp("lora") / "style.gguf", read_header(guide_file), strength=0.5, kind=np.float16
    )


def question(base: GGUFHeader, adapters: Sequence[Path]) -> tuple[bytes, int, tuple[bytes, ...]]:
    short = without_tokenizer(base)
    headers = tuple(encode_header(without_arrays(read_header(path))) for path in adapters)
    return encode_header(short), short.file_size, headers


def asked(engine: Engine, base: GGUFHeader, settings: RunSettings, adapters: Sequence[Path]) -> EngineMemory:
    header, size, headers = question(base, adapters)
    return engine.dry_run(header, size, settings, headers)


def only(*words: str) -> Callable[[TensorInfo], bool]:
    return lambda tensor: is_matrix(tensor) and any(word in tensor.name for word in words)


# ---- counted


@pytest.mark.differential
@pytest.mark.parametrize(
    "name",
    [
        "llama-3.2-1b",
        "qwen2.5-0.5b",
        "qwen3-30b-a3b",
        "gemma-3-1b",
        "phi-3-mini",
        "deepseek-v2-lite",
        "gpt-oss-20b",
        "mamba-130m",
        "lfm2-1.2b",
    ],
)
def test_what_is_predicted_for_adapters_is_what_a_load_takes(name: str, asker: Engine, tmp_path: Path) -> None:
    """Engine on headers alone, engine with weights and arithmetic say the same bytes, with two adapters at once."""
    model = write(tmp_path / "model.gguf", small(name), "Q4_K_M")
    base = read_header(model)
    paths = [
        write_adapter(tmp_path / "one.gguf", base, rank=8),
        write_adapter(tmp_path / "two.gguf", base, only("attn", "output", "ssm_in"), rank=8, kind=np.float16),
    ]
    loras = (Lora(str(paths[0])), Lora(str(paths[1]), -0.5))
    with Engine() as engine:
        real = engine.load(model, replace(HOST, loras=loras)).memory
    assert real == asked(asker, base, HOST, paths)
    adapters = read_adapters(loras)
    found = Estimator(base, adapters).estimate(HOST, Machine())
    assert (found.footprint.host.weights, found.compute[0].likely) == (real.host.weights, real.host.compute)
    assert real.host.adapters == sum(-(-t.size // 32) * 32 for a in adapters for p in a.pairs for t in (p.a, p.b)) > 0


@pytest.mark.differential
@pytest.mark.parametrize("name", ["qwen3-0.6b", "mixtral-8x7b", "deepseek-v2-lite"])
@pytest.mark.parametrize("changes", [{"n_gpu_layers": 3}, {}, {"cpu_experts": 2}, {"n_seq_max": 4, "n_outputs_max": 4}])
def test_adapters_lie_with_the_layers_they_change(
    name: str, changes: dict[str, Any], rpc_server: str, asker: Engine, tmp_path: Path
) -> None:
    base = read_header(write(tmp_path / "model.gguf", small(name), "Q4_K_M"))
    path = write_adapter(tmp_path / "one.gguf", base, rank=8)
    settings = replace(HOST, devices=(rpc_server,), n_ctx=4096, **changes)
    told = asked(asker, base, settings, [path])
    adapters = read_adapters([Lora(str(path))])
    machine = Machine((Device(rpc_server, "RPC", "CPU", None, None),))
    found = Estimator(base, adapters).estimate(settings, machine)
    pools = (found.footprint.host, *found.footprint.devices)
    assert [pool.weights for pool in pools] == [pool.weights for pool in (told.host, *told.devices)]
    assert [band.likely for band in found.compute] == [pool.compute for pool in (told.host, *told.devices)]
    plain = asked(asker, base, settings, [])
    more = [now.weights - before.weights for now, before in zip(told.devices, plain.devices, strict=True)]
    assert more == [told.devices[0].adapters]
    assert told.devices[0].adapters > 0


@pytest.mark.parametrize("mix", ["Q4_K_M"])
def test_repacked_weights_stay_repacked_and_adapters_are_not(mix: str, asker: Engine, tmp_path: Path) -> None:
    base = read_header(write(tmp_path / "model.gguf", small("llama-3.2-1b"), mix))
    path = write_adapter(tmp_path / "one.gguf", base)
    plain = asked(asker, base, replace(HOST, repack=True), [])
    told = asked(asker, base, replace(HOST, repack=True), [path])
    assert told.host.repack == plain.host.repack
    assert told.host.weights == plain.host.weights + told.host.adapters


def test_a_real_model_s_adapter_is_counted_by_its_header(tmp_path: Path) -> None:
    """Rank 16 on all matrices of Llama 3.1 8B in F16: 83.9 MB, as such files on the Hub have."""
    base = shape("llama-3.1-8b")
    layers = only("blk.")
    n = sum(16 * (t.shape[0] + t.shape[1]) for t in base.tensors if layers(t))
    assert 2 * n == 83_886_080
    plain = Estimator(base).estimate(replace(HOST, n_ctx=8192)).footprint.host
    path = write_adapter(tmp_path / "a.gguf", base, layers, rank=16, kind=np.float16)
    with_one = Estimator(base, read_adapters([Lora(str(path))])).estimate(replace(HOST, n_ctx=8192)).footprint.host
    assert with_one.weights - plain.weights == 2 * n


def test_adapters_are_never_pages_of_a_file() -> None:
    host = BufferSizes(None, 1000, 0, 0, repack=100, adapters=300)
    memory = EngineMemory(host, (), 0, 0, 0, 512, 512, None, "map")
    found = footprint_of(memory, Overhead(0, 0), (), maps=True, span=4096)
    assert (found.host.weights, found.host.mapped) == (4096 + 100 + 300, 4096)


def test_answers_about_one_adapter_are_not_taken_for_another(guide_file: Path, tmp_path: Path) -> None:
    base = read_header(guide_file)
    headers = [question(base, [write_adapter(tmp_path / f"{n}.gguf", base, rank=n)])[2] for n in (4, 8)]
    seen: list[int] = []

    def answer(header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        seen.append(size)
        return EngineMemory(BufferSizes(None, 0, 0, 0), (), 0, 0, 0, 512, 512, None, "map")

    for beside in (headers[0], headers[1], (), headers[0]):
        Questions(answer, tmp_path / "answers", beside).memory(b"", 1, HOST)
    assert len(seen) == 3


# ---- refused


def test_scales_are_read_from_the_end() -> None:
    assert parse_lora("/a/b.gguf") == Lora("/a/b.gguf")
    assert parse_lora("/a/b.gguf:0.5") == Lora("/a/b.gguf", 0.5)
    assert parse_lora("/a/b.gguf:-2") == Lora("/a/b.gguf", -2)
    assert parse_lora("/a/b:c.gguf") == Lora("/a/b:c.gguf")
    assert parse_lora("b.gguf").path == str(Path.cwd() / "b.gguf")
    assert str(Lora("/a/b.gguf", 0.5)) == "b.gguf at 0.5"


@pytest.mark.parametrize("text", ["/a.gguf:0", "/a.gguf:nan", "/a.gguf:inf", ""])
def test_scales_that_add_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_lora(text)


def test_an_adapter_is_given_once() -> None:
    with pytest.raises(UsageError, match=r"a\.gguf is given twice"):
        parse_loras(["/x/a.gguf", "/x/a.gguf:0.5"])
    with pytest.raises(UsageError, match="too many"):
        parse_loras([f"/x/{n}.gguf" for n in range(17)])


def one(*shape: int, kind: type[np.generic] = np.float32) -> np.ndarray[Any, Any]:
    return np.zeros(shape, kind)


Q = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keys": {"general.architecture": "qwen3"}}, "for the architecture 'qwen3', and the model is 'llama'"),
        ({"keys": {"general.type": "model"}}, "is a model, not a LoRA adapter"),
        ({"keys": {"general.type": "imatrix"}}, "of the kind 'imatrix'"),
        ({"keys": {"adapter.type": "control_vector"}}, "the type 'control_vector'"),
        ({"keys": {"adapter.alora.invocation_tokens": "1 2"}}, "no array of UINT32"),
        ({"choose": lambda _: False, "changes": {"blk.0.attn_norm.weight": one(8)}}, "it has no matrices"),
        ({"choose": lambda _: False, "changes": {"whatever": one(8)}}, "whatever is none of a LoRA adapter"),
        ({"changes": {f"{Q}.lora_a.lora_a": one(4, 8)}}, "is none of a LoRA adapter"),
        ({"changes": {f"{Q}.lora_b": None}}, f"for {Q} only {Q}.lora_a is there"),
        ({"changes": {"blk.99.ffn_up.weight.lora_a": one(4, 8), "blk.99.ffn_up.weight.lora_b": one(8, 4)}}, "not have"),
        ({"changes": {f"{Q}.lora_a": one(4, 7)}}, "and the model's tensor is"),
        ({"changes": {f"{Q}.lora_b": one(7, 4)}}, "and the model's tensor is"),
        ({"changes": {f"{Q}.lora_a": one(5, 256)}}, "of the ranks 5 and 4"),
        ({"changes": {f"{Q}.lora_a": one(3, 4, 256), f"{Q}.lora_b": one(3, 256, 4)}}, "the model's tensor is"),
        ({"changes": {f"{Q}.lora_a": one(4, 256, kind=np.int8)}}, "of the type I8"),
        ({"choose": lambda t: t.name == "token_embd.weight"}, "the engine cannot do that"),
    ],
)
def test_what_llama_cpp_would_refuse_or_die_of_is_refused_before(
    options: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = read_header(tiny_model)
    path = write_adapter(tmp_path / "a.gguf", base, **{"choose": only("attn_q"), **options})
    lora = Lora(str(path))
    with pytest.raises(GGUFError, match=r"a\.gguf cannot be used with --lora") as refused:
        check_adapters([lora], read_adapters([lora]), base)
    assert reason in refused.value.message


def test_a_table_of_embeddings_is_changed_where_it_is_not_the_output_too(asker: Engine, tmp_path: Path) -> None:
    base = read_header(write(tmp_path / "model.gguf", small("mixtral-8x7b"), "Q4_K_M"))
    path = write_adapter(tmp_path / "a.gguf", base, lambda t: t.name == "token_embd.weight", rank=4)
    adapters = read_adapters([Lora(str(path))])
    check_adapters([Lora(str(path))], adapters, base)
    told = asked(asker, base, HOST, [path])
    assert Estimator(base, adapters).estimate(HOST).compute[0].likely == told.host.compute


def test_every_cut_and_flipped_byte_of_an_adapter_is_refused_or_read(tmp_path: Path, guide_file: Path) -> None:
    base = read_header(guide_file)
    data = write_adapter(tmp_path / "a.gguf", base, only("attn_q")).read_bytes()
    header = read_header(tmp_path / "a.gguf")
    for at in range(0, header.data_offset, 7):
        (tmp_path / "b.gguf").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            check_adapters([Lora(str(tmp_path / "b.gguf"))], read_adapters([Lora(str(tmp_path / "b.gguf"))]), base)
        except LLMRunError:
            continue
        assert parse_adapter(read_header(tmp_path / "b.gguf")).pairs


# ---- as people meet them


def test_an_adapter_changes_the_answer_and_next_to_nothing_of_it_does_not(
    start_engine: Callable[..., Engine], guide: Engine, guide_file: Path, guide_adapter: Path
) -> None:
    plain = ask(guide, "what is a KV cache?", max_tokens=16)
    texts = {
        scale: ask(
            start_engine(guide_file, replace(ONE_THREAD, loras=(Lora(str(guide_adapter), scale),))),
            "what is a KV cache?",
            max_tokens=16,
        )
        for scale in (1.0, 1e-12)
    }
    assert texts[1e-12] == plain
    assert texts[1.0] != plain


def test_a_plan_shows_counts_saves_and_passes_on_an_adapter(llmrun: Run, guide_adapter: Path, tmp_path: Path) -> None:
    plain, changed = (
        figures(llmrun("plan", "guide:F16", "--json", "--device", "none", *more))
        for more in ((), ("--lora", f"{guide_adapter}:0.5"))
    )
    assert changed["settings"]["loras"] == [{"path": str(guide_adapter), "scale": 0.5}]
    before, after = (plan["pools"][0]["used"]["weights"] for plan in (plain, changed))
    assert after - before == read_adapters([Lora(str(guide_adapter))])[0].size
    saved = tmp_path / "plan.json"
    shown = llmrun("plan", "guide:F16", "--device", "none", "--lora", f"{guide_adapter}:0.5", "--save", str(saved))
    assert "adapters      style.gguf at 0.5: as you said" in shown.stdout
    assert parse_plan(saved.read_text()).settings.loras == (Lora(str(guide_adapter), 0.5),)
    answer = llmrun("run", "guide:F16", "hello", "--plan", str(saved), "-n", "4", "--temp", "0")
    assert answer.returncode == 0, answer.stderr
    emitted = llmrun("plan", "guide:F16", "--lora", f"{guide_adapter}:0.5", "--emit", "llama-server").stdout
    assert f"--lora-scaled {guide_adapter}:0.5" in emitted


def test_llama_server_gets_adapters_as_it_reads_them() -> None:
    settings = RunSettings(devices=(), loras=(Lora("/a.gguf"), Lora('/b,"c.gguf', 0.5)))
    command = llama_server_command("m.gguf", settings)
    start = command.index("--lora")
    assert command[start : start + 4] == ("--lora", "/a.gguf", "--lora-scaled", '"/b,""c.gguf:0.5"')


@pytest.mark.parametrize("loras", ["x", [{"path": "/a", "scale": 0}], [{"path": "", "scale": 1}], [1], None])
def test_a_saved_plan_with_no_adapters_where_some_should_be_is_refused(loras: object) -> None:
    settings = {"n_ctx": 512, "devices": [], "n_gpu_layers": 0, "loras": loras}
    with pytest.raises(UsageError, match="for loras, which cannot be"):
        parse_plan(json.dumps({"format": 1, "quant": "F16", "size": 1, "settings": settings}))


def test_what_was_given_in_its_place_is_named(
    llmrun: Run, guide_file: Path, guide_adapter: Path, tmp_path: Path
) -> None:
    model_as_adapter = llmrun("run", "guide", "hello", "--lora", str(guide_file))
    assert "it is a model, not a LoRA adapter" in model_as_adapter.stderr
    adapter_as_model = llmrun("run", str(guide_adapter), "hello")
    assert "LoRA adapter" in adapter_as_model.stderr
    assert "--lora" in adapter_as_model.stderr
    (tmp_path / "adapter_config.json").write_text("{}")
    folder = llmrun("run", "guide", "hello", "--lora", str(tmp_path))
    assert "convert_lora_to_gguf.py" in folder.stderr
    missing = llmrun("run", "guide", "hello", "--lora", str(tmp_path / "none.gguf"))
    assert "there is no file" in missing.stderr
    assert [done.returncode for done in (model_as_adapter, adapter_as_model, folder, missing)] == [6, 6, 2, 5]
