"""Asking llama.cpp what a model would take before a byte of its weights is there.

The header goes into a file of the model's full size that holds nothing else (a ghost), llama.cpp loads that without
allocating, and makes a context. Never decode in one: its buffers are not there. Two things are allocated even so, a
recurrent state and 52 bytes for each cell of a KV cache: where they would be large, less is asked for and scaled, and
where that would not be true QuestionTooLargeError says so.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as lib

from llmrun.errors import EngineError, GGUFError, InsufficientMemoryError, QuestionTooLargeError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.memory.attention import remembering
from llmrun.memory.context import ContextShape, context_shape
from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.settings import MTP, Lora, RunSettings
from llmrun.units import format_bytes
from llmrun.worker.breakdown import read_breakdown
from llmrun.worker.ghost_log import sizes_by_header
from llmrun.worker.llama import Model, load_ghost, make_context
from llmrun.worker.log import engine_log
from llmrun.worker.memory_report import ReadTable, report_memory

# Cells really asked for: their table takes 52 bytes each (llama-kv-cells.h: pos, shift, ext, seq), measured 52 MiB.
MAX_CELLS = 1 << 20
# Bytes of recurrent state really allocated in a dry run, on the host or on a device (llama-memory-recurrent.cpp).
MAX_STATE = 512 << 20
_FSCTL_SET_SPARSE = 0x900C4  # winioctl.h
_CELL_PAD = 256  # llama-context.cpp, GGML_PAD(cparams.n_ctx, 256)

Ask = Callable[[RunSettings], EngineMemory]


def dry_run(
    header: bytes,
    size: int,
    settings: RunSettings,
    adapters: Sequence[bytes] = (),
    *,
    read_table: ReadTable = read_breakdown,
    max_state: int = MAX_STATE,
    max_cells: int = MAX_CELLS,
) -> EngineMemory:
    """Return what a model of this header would take.

    size: bytes of the whole file. With the draft MTP it is asked about the context of the model's layers for that, and
    not about its own; the weights are those of both. adapters: the headers of LoRA adapters to run it with; the
    settings' own do not count. Raises GGUFError for a header llama.cpp refuses, QuestionTooLargeError where asking
    would itself take too much, UsageError or EngineError for settings it cannot run with. max_state (bytes), max_cells:
    beyond these less is asked for and scaled. read_table: see report_memory.
    """
    with ghost(header, size) as path, ExitStack() as beside:
        # debug lines too: without a table they are what says where the layers go (measured: 1 to 3 ms)
        with engine_log().recording(debug=True, quiet=True) as loading:
            model = load_ghost(path, settings)
        try:
            if model.is_recurrent:
                _check_state(header, max_state)
            by_log = sizes_by_header(header, settings)
            with engine_log().recording(debug=True, quiet=True) as reading:
                model.load_adapters([_ghost_adapter(number, one, beside) for number, one in enumerate(adapters, 1)])
            said = loading.lines() + reading.lines()

            def ask(changed: RunSettings) -> EngineMemory:
                with _context(model, changed) as (context, lines):
                    return report_memory(
                        context, model, changed, said + lines, by_log, read_table=read_table, is_dry=True
                    )

            return _ask_for_cells(
                lambda changed: _ask_for_state(ask, model, changed, max_state), model, settings, max_cells
            )
        finally:
            model.close()


def _ghost_adapter(number: int, header: bytes, beside: ExitStack) -> tuple[Path, Lora]:
    """Make the file of an adapter that has nothing but its header; raises QuestionTooLargeError for a large one."""
    parsed = parse_header(header)
    if not isinstance(parsed, GGUFHeader):
        raise GGUFError("the header of an adapter is not whole")
    if parsed.data_size > MAX_STATE:
        raise QuestionTooLargeError(
            f"an adapter of {format_bytes(parsed.data_size)} cannot be asked for: "
            f"at most {format_bytes(MAX_STATE)} is made for a question"
        )
    path = beside.enter_context(ghost(header, len(header) + parsed.data_size))
    return path, Lora(f"number {number}")


@contextmanager
def _context(model: Model, settings: RunSettings) -> Iterator[tuple[Any, list[str]]]:
    """Make a context, and yield it with what the log said; freed afterwards."""
    try:
        with engine_log().recording(debug=True, quiet=True) as making:
            context = make_context(model, settings, is_mtp=settings.draft == MTP)
    except InsufficientMemoryError as error:
        raise QuestionTooLargeError(f"what it would take cannot be asked: {error.message}", error.hint) from error
    try:
        yield context, making.lines()
    finally:
        lib.llama_free(context)


def _check_state(header: bytes, max_state: int) -> None:
    """Raise QuestionTooLargeError where the state of one sequence, which is really made, would be monstrous."""
    parsed = parse_header(header)
    if not isinstance(parsed, GGUFHeader):
        return
    try:
        state = sum(layer.state for layer in remembering(parsed))
    except GGUFError:  # not an architecture our arithmetic knows
        return
    if state > max_state:
        raise QuestionTooLargeError(
            f"a recurrent state of {format_bytes(state)} a sequence cannot be asked for: "
            f"at most {format_bytes(max_state)} is made for a question"
        )


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
            _extend_file(descriptor, size)
            os.lseek(descriptor, 0, os.SEEK_SET)  # on macOS it is the position of who opens /dev/fd/N, too
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
    """Open a new file; where that can be, one that has no name, so that it is gone however this process ends."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("ghost.gguf")
        return descriptor, Path(f"/proc/self/fd/{descriptor}")
    descriptor, name = tempfile.mkstemp(suffix=".gguf")
    if sys.platform == "darwin":
        Path(name).unlink()
        return descriptor, Path(f"/dev/fd/{descriptor}")
    return descriptor, Path(name)


def _remove(descriptor: int, path: Path) -> None:
    os.close(descriptor)
    if sys.platform not in ("linux", "darwin"):
        path.unlink()


def _extend_file(descriptor: int, size: int) -> None:
    """Make a file longer and write nothing."""
    if sys.platform != "win32":
        os.ftruncate(descriptor, size)
        return
    # os.ftruncate writes zeros there (the C library's _chsize_s), and a file that is not sparse gets them anyway
    import msvcrt

    kernel, handle = ctypes.WinDLL("kernel32", use_last_error=True), msvcrt.get_osfhandle(descriptor)
    done, end = ctypes.c_ulong(), ctypes.c_longlong(size)
    if not (
        kernel.DeviceIoControl(ctypes.c_void_p(handle), _FSCTL_SET_SPARSE, None, 0, None, 0, ctypes.byref(done), None)
        and kernel.SetFilePointerEx(ctypes.c_void_p(handle), end, None, 0)
        and kernel.SetEndOfFile(ctypes.c_void_p(handle))
    ):
        raise ctypes.WinError(ctypes.get_last_error())


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
    fewer = max_state // one.state
    if fewer < 2 or (settings.kv_unified and model.n_swa):
        why = "that share one sliding window " if fewer >= 2 else ""
        raise QuestionTooLargeError(
            f"{n} sequences {why}with a recurrent state of {format_bytes(one.state)} each cannot be asked for: "
            f"at most {format_bytes(max_state)} is made for a question"
        )
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
    cells = _three_contexts(shape, model.n_swa, max_cells)
    return _extend([ask(replace(settings, n_ctx=n * shape.n_stream)) for n in cells], shape)


def _three_contexts(shape: ContextShape, n_swa: int, max_cells: int) -> range:
    """Return three contexts of one sequence, evenly apart and as long as may be, that lie on one line with the wished.

    What a sliding window holds grows with the context until it is full: all three are longer than that, or all shorter.
    """
    most = max_cells // shape.n_stream // _CELL_PAD * _CELL_PAD
    first = most // 3 // _CELL_PAD * _CELL_PAD
    window = shape.window_cells(n_swa) if n_swa else 0
    if window < shape.n_ctx_seq:
        first = max(first, window)
    step = (most - first) // 2 // _CELL_PAD * _CELL_PAD
    if first <= 0 or step <= 0:
        raise QuestionTooLargeError(
            f"{_context_of(shape)} is too long to be asked for: "
            f"a question has at most {max_cells:,} tokens, {most:,} a sequence, and a window holds {window:,}"
        )
    return range(first, first + 2 * step + 1, step)


def _context_of(shape: ContextShape) -> str:
    return f"a context of {shape.n_ctx:,} tokens"


def _extend(points: Sequence[EngineMemory], shape: ContextShape) -> EngineMemory:
    """Return what the wished context takes, by the straight line on which three shorter ones lie."""
    one, two, three = points
    step = three.n_ctx_seq - two.n_ctx_seq

    def line(low: int, middle: int, high: int) -> int:
        if high - middle != middle - low:
            raise QuestionTooLargeError(
                f"{_context_of(shape)} is too long to be asked for: what shorter ones take is on no straight line"
            )
        return high + -(-(high - middle) * (shape.n_ctx_seq - three.n_ctx_seq) // step)

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
        n_ctx=shape.n_ctx,
        n_ctx_seq=shape.n_ctx_seq,
        scaled=True,
    )
