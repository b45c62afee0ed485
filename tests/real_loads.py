"""What llama.cpp really allocates for small models, and what it said before it would; a process of its own.

    python -m tests.real_loads DEVICE DIRECTORY NAME...

Writes each small model into the directory, loads it in several ways, on the host and on the device, and prints one line
of JSON for each: the memory of the real load, and of the dry run of the header alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from llmrun.gguf.encode import encode_header, without_tokenizer
from llmrun.gguf.source import read_header
from llmrun.memory.engine_memory import EngineMemory
from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.dry_run import dry_run
from llmrun.worker.llama import Context, load_model, start_backend
from llmrun.worker.log import engine_log
from llmrun.worker.memory_report import report_memory, sizes_of_log
from scripts.architectures.shapes import small
from scripts.architectures.write import write
from tests.repacking import can_repack


def ways(n_layer: int, device: str, has_experts: bool, may_repack: bool) -> Iterator[RunSettings]:
    """Yield settings that among them have every context, KV type, attention, number of sequences and kind of split."""
    splits = sorted({0, 1, n_layer // 2, n_layer, n_layer + 1})
    contexts = (512, 4096, 131072, 8192, 32768)
    kinds = (("f16", None), ("q8_0", True), ("f16", False), ("q4_0", None), ("f16", True))
    sequences = ((1, False), (4, False), (1, False), (4, True), (2, False))
    for index, n_gpu_layers in enumerate(splits):
        kv_type, flash_attn = kinds[index % 5]
        n_seq, unified = sequences[index % 5]
        yield RunSettings(
            n_ctx=contexts[index % 5],
            n_seq_max=n_seq,
            n_outputs_max=n_seq,
            kv_unified=unified,
            type_k=kv_type,
            type_v=kv_type,
            flash_attn=flash_attn,
            devices=() if n_gpu_layers == 0 else (device,),
            n_gpu_layers=n_gpu_layers,
            cpu_experts=n_layer - 1 if has_experts and index % 2 else 0,
            repack=may_repack and index % 2 == 0,
            load_mode="none",
        )


def really(path: Path, settings: RunSettings) -> EngineMemory:
    """Load the file and make its context, and report what was allocated."""
    with engine_log().recording() as log:
        model = load_model(path, settings, lambda _: True)
        context = Context(model, settings, CancelFlag())
    memory = report_memory(context.pointer, model, settings, log.lines(), sizes_of_log)
    context.close()
    model.close()
    return memory


def main() -> None:
    """Do as the module's docstring says."""
    device, directory, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    start_backend()
    for name in names:
        model = small(name)
        path = write(directory / f"{name}.gguf", model, "Q4_K_M")
        header = read_header(path)
        question = encode_header(without_tokenizer(header))
        has_experts = any("_exps" in tensor.name for tensor in header.tensors)
        n_layer = header.uint(header.arch("block_count"))
        for settings in ways(n_layer, device, has_experts, can_repack(path)):
            real, asked = really(path, settings), dry_run(question, header.file_size, settings)
            row = {"name": name, "settings": asdict(settings), "real": asdict(real), "asked": asdict(asked)}
            sys.stdout.write(json.dumps(row) + "\n")
        path.unlink()


if __name__ == "__main__":
    main()
