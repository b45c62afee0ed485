"""Images for a loaded model: read, cut into what the model takes for tokens, encoded, and put into a context.

Everything of llama.cpp's mtmd is here. It is never given text that people wrote: only images go to it, one by one, so
that no marker in a text can stand for an image.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as lib
from llama_cpp import mtmd_cpp as mtmd

from llmrun.errors import EngineError, GGUFError, InsufficientMemoryError, NotFoundError, UsageError
from llmrun.gguf.projector import Projector, parse_projector
from llmrun.gguf.source import read_header
from llmrun.images import MAX_BYTES, parse_image
from llmrun.memory.projector import device_of_projector
from llmrun.settings import RunSettings
from llmrun.worker.devices import devices
from llmrun.worker.log import engine_log
from llmrun.worker.spans import Pieces, Span

if TYPE_CHECKING:
    from llmrun.worker.llama import Context

# sizeof in C of the structs passed by value, llama.cpp 0c1e57098 on 64-bit machines (see worker.llama)
_PARAMS_SIZE = 96
_TEXT, _IMAGE = mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT, mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE


@dataclass(slots=True)
class _Picture:
    """An image as it lies in the worker: the file it was read from as it then was, its pieces, what owns them."""

    stamp: tuple[int, int]
    pieces: Pieces
    chunks: Any


class Vision:
    """A projector, and the images of the conversation at hand. `close` frees both; its model must outlive it."""

    def __init__(self, model: Any, path: Path, settings: RunSettings) -> None:
        """model: llama.cpp's pointer. Raises GGUFError for a projector that llama.cpp refuses."""
        params = projector_params(settings, parse_projector(read_header(path)))
        self._n_threads = int(params.n_threads)
        engine_log().hear(mtmd.mtmd_helper_log_set)
        with engine_log().collecting() as complaints:
            self._pointer: Any = mtmd.mtmd_init_from_file(os.fsencode(path), model, params)
        if not self._pointer:
            reason = (complaints or ["no reason given"])[-1].strip()
            raise GGUFError(f"{path.name} could not be loaded: {reason}", "take the model's own mmproj file")
        if not mtmd.mtmd_support_vision(self._pointer):
            self.close()
            raise GGUFError(f"{path.name} sees nothing", "take the model's own mmproj file")
        self._pictures: dict[str, _Picture] = {}
        self._spans: dict[int, Span] = {}

    def pieces(self, path: str) -> Pieces:
        """Return what an image in a file is to the model: tokens before, between and behind, and spans.

        Read again only where the file is another than it was. Raises NotFoundError or UsageError.
        """
        known = self._pictures.get(path)
        try:
            status = Path(path).stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            if known is not None:  # an image that was shown and removed is still part of the conversation
                return known.pieces
            raise NotFoundError(f"there is no image {path}", "check the path") from None
        if known is None or known.stamp != stamp:
            if known is not None:
                self._forget(path)
            self._pictures[path] = known = self._cut(Path(path), stamp)
            self._spans |= {piece.id: piece for piece in known.pieces if isinstance(piece, Span)}
        return known.pieces

    def keep(self, paths: Sequence[str]) -> None:
        """Forget all images but these."""
        for path in set(self._pictures) - set(paths):
            self._forget(path)

    def span(self, token: int) -> Span:
        """Return the span that a token of a prompt stands for."""
        return self._spans[token]

    def read(self, span: Span, context: Context, place: tuple[int, int]) -> int:
        """Encode a span and put it into a context, in its steps; returns llama_decode's status, -1 for no encoding.

        place: sequence and position.

        Raises EngineError for one that would have to be in one batch, and is larger.
        """
        whole = mtmd.mtmd_decode_use_non_causal(self._pointer, span.chunk)
        if whole and span.n_cells > context.n_step:
            raise EngineError(
                f"an image of {span.n_cells} tokens has to be read at once, and {context.n_step} are",
                "make a new plan for it",
            )
        context.bind_threads(self._n_threads)
        if mtmd.mtmd_encode_chunk(self._pointer, span.chunk) != 0:
            return -1
        new, (seq, position) = lib.llama_pos(0), place
        return int(
            mtmd.mtmd_helper_decode_image_chunk(
                *(self._pointer, context.pointer, span.chunk, mtmd.mtmd_get_output_embd(self._pointer)),
                *(position, seq, context.n_step, ctypes.byref(new), mtmd.mtmd_helper_post_decode_callback(), None),
            )
        )

    def _cut(self, path: Path, stamp: tuple[int, int]) -> _Picture:
        data = _read(path)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        with engine_log().collecting():
            found = mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(self._pointer, buffer, len(data), False, _no_video())
        if found.video_ctx:
            mtmd.mtmd_helper_video_free(found.video_ctx)
        bitmap = None if found.video_ctx else found.bitmap
        if not bitmap:
            raise UsageError(f"the image {path.name} cannot be unpacked", "it may be damaged: save it again as PNG")
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            part = mtmd.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            with engine_log().collecting() as complaints:
                status = mtmd.mtmd_tokenize_from_parts(self._pointer, chunks, parts, 1, False)
        finally:
            mtmd.mtmd_bitmap_free(bitmap)
        if status != 0:
            mtmd.mtmd_input_chunks_free(chunks)
            raise UsageError(f"the image {path.name} cannot be used: {(complaints or ['no reason given'])[-1].strip()}")
        digest = hashlib.sha256(data).digest()
        return _Picture(stamp, tuple(_pieces(chunks, digest)), chunks)

    def _forget(self, path: str) -> None:
        picture = self._pictures.pop(path)
        others = {piece.id for one in self._pictures.values() for piece in one.pieces if isinstance(piece, Span)}
        for piece in picture.pieces:
            if isinstance(piece, Span) and piece.id not in others:
                self._spans.pop(piece.id, None)
        mtmd.mtmd_input_chunks_free(picture.chunks)
        for one in self._pictures.values():  # the same pixels under another name: its chunk is the one that is left
            self._spans |= {piece.id: piece for piece in one.pieces if isinstance(piece, Span)}

    def close(self) -> None:
        """Free everything."""
        for picture in getattr(self, "_pictures", {}).values():
            mtmd.mtmd_input_chunks_free(picture.chunks)
        self._pictures, self._spans = {}, {}
        if self._pointer:
            mtmd.mtmd_free(self._pointer)
            self._pointer = None


def projector_params(settings: RunSettings, projector: Projector) -> Any:
    """Return mtmd_context_params: the projector is where the first layers are, or on the host.

    Raises EngineError where the bindings are not those we were written for.
    """
    params = mtmd.mtmd_context_params_default()
    if ctypes.sizeof(params) != _PARAMS_SIZE and ctypes.sizeof(ctypes.c_void_p) == 8:
        raise EngineError(
            f"the installed llama-cpp-python does not match llmrun: mtmd_context_params has {ctypes.sizeof(params)} "
            f"bytes, expected {_PARAMS_SIZE}",
            "`llmrun doctor --fix` installs the version that does",
        )
    device = projector_device(settings)
    params.use_gpu = device is not None
    if device is not None:
        params.device = devices().pointers((device,))[0]
    if projector.limit is not None:
        params.image_max_tokens = projector.limit
    params.n_threads = settings.n_threads_batch
    params.print_timings = False
    params.warmup = True  # its buffers are then there from the start
    return params


def projector_device(settings: RunSettings) -> str | None:
    """Return the device of the projector, None for the host."""
    names = settings.devices or ()
    number = device_of_projector(names, settings.n_gpu_layers)
    return None if number is None else names[number]


def _no_video() -> Any:
    """Return options with which what is no image is not given to a program that might read it as a video."""
    options = mtmd.mtmd_helper_init_opt_default()
    options.video_params.ffmpeg_bin_dir = os.fsencode(os.devnull)
    return options


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise NotFoundError(f"the image {path} is no ordinary file", "give the path of an image")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"the image {path} cannot be read: {error.strerror}", "check its permissions") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"the image {path.name} is too large", "shrink it")
    try:
        parse_image(data)  # what is not looked at here, stb_image would unpack however large it is
    except UsageError as error:
        raise UsageError(f"{path.name} {error.message}", error.hint) from error
    return data


def _pieces(chunks: Any, digest: bytes) -> list[int | Span]:
    pieces: list[int | Span] = []
    for index in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, index)
        kind = mtmd.mtmd_input_chunk_get_type(chunk)
        n_cells = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        if kind == _TEXT:
            count = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            pieces += [int(tokens[number]) for number in range(count.value)]
        elif kind == _IMAGE:
            name = hashlib.sha256(digest + index.to_bytes(4, "big")).digest()
            n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
            pieces.append(Span(-1 - int.from_bytes(name[:7], "big"), n_pos, n_cells, chunk))
        else:
            raise InsufficientMemoryError("an image became something that is none")
    return pieces
