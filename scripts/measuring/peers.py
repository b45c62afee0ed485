"""Our arithmetic beside what others say of the same headers: `scripts/accuracy peers`.

hf-mem (on PyPI) and llama-fit-params (a tool of llama.cpp, built from the sources in the sdist of llama-cpp-python) are
asked, not quoted; where one is not there, the notes say so. What the engine answers is the truth: its buffers, without
what the process takes beside them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.engine.layouts import read_layouts
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_model_header
from llmrun.memory.estimate import Estimator, Machine
from llmrun.settings import RunSettings
from scripts.architectures.shapes import MODELS
from scripts.architectures.write import ghost

SHAPES = (
    "qwen3-0.6b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen3-30b-a3b",
    "gemma-3-27b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "granite-4.0-h-tiny",
)
CONTEXTS = (4096, 32768)
WORST = 0.005  # what our arithmetic may be off
SETTINGS = RunSettings(devices=(), repack=True, load_mode="none")
_MIB = 1 << 20
_SECONDS = 120  # what a tool may take

# hf-mem reads headers from huggingface.co alone, so its functions are given the bytes it would have fetched.
_HF_MEM = """
import json, sys
from hf_mem.gguf.metadata import parse_gguf_metadata
with open(sys.argv[1], "rb") as file:
    found = parse_gguf_metadata(file.read(1 << 24), experimental=True, max_model_len=int(sys.argv[2]))
print(json.dumps(found.bytes_count + found.kv_cache.cache_size))
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes, or why there are none."""

    size: int | None
    trouble: str = ""


@dataclass(slots=True)
class Tools:
    """The programs, None where there is none, and what went wrong with them."""

    hf_mem: Path | None
    fit_params: Path | None
    troubles: list[str] = field(default_factory=list)

    def ask(self, path: Path, n_ctx: int) -> Iterator[Answer]:
        """Yield the answers of hf-mem, of llama-fit-params, and of the latter without repacking."""
        yield Answer(None) if self.hf_mem is None else ask_hf_mem(self.hf_mem, path, n_ctx)
        for flag in ("--repack", "--no-repack"):
            yield Answer(None) if self.fit_params is None else ask_fit_params(self.fit_params, path, n_ctx, flag)


def ask_hf_mem(program: Path, path: Path, n_ctx: int) -> Answer:
    """Return weights and KV cache as hf-mem reckons them; program: hf-mem, in an environment of its own."""
    done = _run([str(program.with_name("python")), "-c", _HF_MEM, str(path), str(n_ctx)])
    if done.returncode != 0:
        return Answer(None, _last_line(done.stderr))
    return Answer(int(json.loads(done.stdout)))


def hf_mem_version(program: Path) -> str:
    """Return its version as its package says."""
    script = "from importlib.metadata import version; print(version('hf-mem'))"
    return _run([str(program.with_name("python")), "-c", script]).stdout.strip()


def ask_fit_params(program: Path, path: Path, n_ctx: int, flag: str) -> Answer:
    """Return what llama-fit-params expects on the host, told the same as the engine."""
    told = f"-c {n_ctx} -b {SETTINGS.n_batch} -ub {SETTINGS.n_ubatch} -ngl 0 -dev none -fitp on".split()
    done = _run([str(program), "-m", str(path), *told, flag])
    found = re.search(r"^Host (\d+) (\d+) (\d+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        return Answer(None, _last_line(done.stderr))
    return Answer(sum(map(int, found.groups())) * _MIB)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def show_peers(options: argparse.Namespace) -> bool:
    """Print the table, and return whether our arithmetic is as near as promised."""
    tools = Tools(_program(options.hf_mem), _program(options.fit_params))
    print("whole models on the CPU, MiB: what llama.cpp answers, and how far from it each is")
    print(_HEAD)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ghost.gguf"
        for name in SHAPES:
            _write_ghost(path, name)
            for n_ctx in CONTEXTS:
                worst = max(worst, _row(name, path, n_ctx, _asked(path, n_ctx), tools))
            path.unlink()
    for quant in ("Q4_K_M", "Q8_0"):
        path = embedded_file(quant)
        worst = max(worst, _row(f"guide {quant}, loaded", path, 2048, _loaded(path, 2048), tools))
    print("\n".join(_notes(tools)))
    print(f"arithmetic: off by {worst:.2%} at most")
    return worst <= WORST


def _program(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None


def _write_ghost(path: Path, name: str) -> None:
    header, size = ghost(MODELS[name])
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)  # takes no room


def _asked(path: Path, n_ctx: int) -> int:
    header = read_model_header(path)
    with Engine() as engine, path.open("rb") as file:
        start = file.read(header.data_offset)
        return engine.dry_run(start, header.file_size, replace(SETTINGS, n_ctx=n_ctx)).total


def _loaded(path: Path, n_ctx: int) -> int:
    with Engine() as engine:
        memory = engine.load(path, replace(SETTINGS, n_ctx=n_ctx)).memory
        assert memory
        return memory.total


def arithmetic(header: GGUFHeader, n_ctx: int) -> int:
    """Return what our arithmetic plans with, without the process's own overhead."""
    machine = Machine(layouts=read_layouts())
    footprint = Estimator(header).estimate(replace(SETTINGS, n_ctx=n_ctx), machine).footprint
    return footprint.total - footprint.host.overhead


def _row(name: str, path: Path, n_ctx: int, truth: int, tools: Tools) -> float:
    """Print a row, and return how far our arithmetic is off."""
    ours = arithmetic(read_model_header(path), n_ctx)
    answers = list(tools.ask(path, n_ctx))
    cells = "".join(_cell(answer.size, truth) for answer in (Answer(ours), *answers))
    print(f"{name[:22]:<22}{n_ctx:>7}{truth / _MIB:>10,.1f}{cells}", flush=True)
    tools.troubles += [f"{name}: {answer.trouble}" for answer in answers if answer.trouble]
    return abs(ours - truth) / truth


def _cell(size: int | None, truth: int) -> str:
    return f"{'none':>20}" if size is None else f"{size / _MIB:>11,.1f}{(size - truth) / truth:>+9.2%}"


_HEAD = (
    f"{'model':<22}{'ctx':>7}{'engine':>10}{'our arithmetic':>20}{'hf-mem':>20}{'llama-fit-params':>20}"
    f"{'with --no-repack':>20}"
)


def _notes(tools: Tools) -> Iterator[str]:
    yield f"all: Q4_K_M where not named otherwise, f16 KV cache, steps of {SETTINGS.n_ubatch} tokens, one row of logits"
    yield "none counts the process beside the buffers (libraries, vocabulary, conversation); llmrun's plan adds it"
    if tools.hf_mem is None:
        yield "hf-mem: not there; install it into an environment of its own and give --hf-mem PATH"
    else:
        yield (
            f"hf-mem {hf_mem_version(tools.hf_mem)} leaves out compute and output buffers; it takes n_embd / n_head "
            "for the size of a head, and all of the context for each layer: no windows, latent heads or states"
        )
    if tools.fit_params is None:
        yield "llama-fit-params: not there; build it from llama.cpp's sources and give --fit-params PATH"
    else:
        yield (
            "llama-fit-params leaves out the output buffer, and what the CPU repacks, which is on no device it lists; "
            f"it reserves logits for all {SETTINGS.n_ubatch} tokens, cannot be told less, and prints MiB rounded down"
        )
    yield from dict.fromkeys(f"no answer, {trouble}" for trouble in tools.troubles)
