"""Asking llama.cpp what a model would take before a byte of its weights is there.

The header goes into a file of the model's full size that holds nothing else (a ghost), llama.cpp loads that without
allocating, and makes a context. Never decode in one: its buffers are not there. Two things are allocated even so, a
recurrent state and 52 bytes for each cell of a KV cache: where they would be large, less is asked for and scaled.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llama_cpp import llama_cpp as lib

from llmrun.errors import EngineError, GGUFError
from llmrun.memory.context import context_shape
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import RunSettings
from llmrun.worker.ghost_log import sizes_by_header
from llmrun.worker.llama import Model, load_ghost, make_context
from llmrun.worker.log import engine_log
from llmrun.worker.memory_report import report_memory

# Cells really asked for: their table takes 52 bytes each (llama-kv-cells.h: pos, shift, ext, seq), measured 52 MiB.
MAX_CELLS = 1 << 20
# Bytes of recurrent state really allocated in a dry run, on the host or on a device (llama-memory-recurrent.cpp).
MAX_STATE = 512 << 20

Ask = Callable[[RunSettings], EngineMemory]


def dry_run(
    header: bytes,
    size: int,
    settings: RunSettings,
    *,
    use_table: bool = True,
    max_state: int = MAX_STATE,
    max_cells: int = MAX_CELLS,
) -> EngineMemory:
    """Return what a model of this header would take.

    size: bytes of the whole file. Raises GGUFError for a header llama.cpp refuses, InsufficientMemoryError where asking
    would itself take too much, UsageError or EngineError for settings it cannot run with. max_state (bytes), max_cells:
    beyond these less is asked for and scaled. use_table: see report_memory.
    """
    log = engine_log()
    with ghost(header, size) as path:
        with log.recording(debug=not use_table, quiet=True) as loading:
            model = load_ghost(path, settings)
        by_log = sizes_by_header(header, settings)

        def ask(changed: RunSettings) -> EngineMemory:
            with log.recording(debug=not use_table, quiet=True) as making:
                context = make_context(model, changed)
            try:
                lines = loading.lines() + making.lines()
                return report_memory(context, model, changed, lines, by_log, use_table=use_table, is_dry=True)
            finally:
                lib.llama_free(context)

        try:
            return _ask_for_cells(
                lambda changed: _ask_for_state(ask, model, changed, max_state), model, settings, max_cells
            )
        finally:
            model.close()


@contextmanager
def ghost(header: bytes, size: int) -> Iterator[Path]:
    """Make a file of `size` bytes that begins with a header and takes no more room than that; gone afterwards."""
    if size < len(header):
        raise GGUFError(f"a file of {size:,} bytes cannot begin with a header of {len(header):,}")
    try:
        descriptor, path = _new_file()
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(header)
                file.truncate(size)
        except BaseException:
            _remove(descriptor, path)
            raise
    except (OSError, OverflowError) as error:
        raise EngineError(f"no stand-in for a file of {size:,} bytes could be made: {error}") from error
    try:
        yield path
    finally:
        _remove(descriptor, path)


def _new_file() -> tuple[int, Path]:
    if sys.platform == "linux":
        descriptor = os.memfd_create("ghost.gguf")
        return descriptor, Path(f"/proc/self/fd/{descriptor}")
    descriptor, name = tempfile.mkstemp(suffix=".gguf")
    return descriptor, Path(name)


def _remove(descriptor: int, path: Path) -> None:
    os.close(descriptor)
    if sys.platform != "linux":
        path.unlink()


def _ask_for_state(ask: Ask, model: Model, settings: RunSettings, max_state: int) -> EngineMemory:
    """Ask with fewer sequences where the state of all would be too large to be made."""
    n = settings.n_seq_max
    if n == 1 or not model.is_recurrent:
        return ask(settings)
    shape = context_shape(settings, model.n_ctx_train)

    def with_sequences(count: int) -> RunSettings:
        n_ctx = shape.n_ctx if settings.kv_unified else shape.n_ctx_seq * count
        return replace(settings, n_seq_max=count, n_ctx=n_ctx)

    one = ask(with_sequences(1))
    if one.state * n <= max_state:
        return ask(settings)
    if settings.kv_unified and model.n_swa:
        raise EngineError(f"{n} sequences that share one sliding window cannot be asked for")
    fewer = max(2, max_state // one.state)
    return _scale_sequences(one, ask(with_sequences(fewer)), fewer, n)


def _scale_sequences(one: EngineMemory, some: EngineMemory, asked: int, n: int) -> EngineMemory:
    """Return what n sequences take, from what one and `asked` of them do: a state each, and cells, shared or their own.

    Compute buffers are sums and maxima of parts that grow with the sequences or do not: k times as many take at most k
    times as much.
    """

    def line(low: int, high: int) -> int:
        return high + (high - low) * (n - asked) // (asked - 1)

    def pool(low: BufferSizes, high: BufferSizes) -> BufferSizes:
        return replace(high, kv_cache=line(low.kv_cache, high.kv_cache), compute=high.compute * -(-n // asked))

    return replace(
        some,
        host=pool(one.host, some.host),
        devices=tuple(map(pool, one.devices, some.devices)),
        kv_cache=line(one.kv_cache, some.kv_cache),
        state=line(one.state, some.state),
        output=line(one.output, some.output),
        n_ctx=line(one.n_ctx, some.n_ctx),
        scaled=True,
    )


def _ask_for_cells(ask: Ask, model: Model, settings: RunSettings, max_cells: int) -> EngineMemory:
    """Ask for fewer cells where the table of all would be too large, and go on in a straight line from there."""
    shape = context_shape(settings, model.n_ctx_train)
    if shape.n_ctx <= max_cells:
        return ask(settings)
    step = max_cells // shape.n_stream // 3 // 256 * 256
    streams = shape.n_stream
    points = [ask(replace(settings, n_ctx=step * times * streams)) for times in (1, 2, 3)]
    return _extend(points, shape.n_ctx_seq, step, streams)


def _extend(points: list[EngineMemory], n_ctx_seq: int, step: int, streams: int) -> EngineMemory:
    one, two, three = points

    def line(low: int, middle: int, high: int) -> int:
        if high - middle != middle - low:
            raise EngineError(f"a context of {n_ctx_seq * streams:,} tokens is too long to be asked for")
        return high + -(-(high - middle) * (n_ctx_seq - 3 * step) // step)

    def pool(low: BufferSizes, middle: BufferSizes, high: BufferSizes) -> BufferSizes:
        return replace(
            high,
            kv_cache=line(low.kv_cache, middle.kv_cache, high.kv_cache),
            compute=line(low.compute, middle.compute, high.compute),
        )

    return replace(
        three,
        host=pool(one.host, two.host, three.host),
        devices=tuple(map(pool, one.devices, two.devices, three.devices)),
        kv_cache=line(one.kv_cache, two.kv_cache, three.kv_cache),
        n_ctx=n_ctx_seq * streams,
        n_ctx_seq=n_ctx_seq,
        scaled=True,
    )
