"""llama.cpp's low-level calls, wrapped just enough to be safe: models, contexts, batches.

Every parameter is set on purpose; llama-cpp-python's `Llama` class is not used, because its defaults are not ours
and it hides half of what we need. Numbers of tokens and positions are ints, pointers stay in this module's objects.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from llmrun.engine.refusal import parse_refusal
from llmrun.errors import EngineError, GGUFError, Refusal
from llmrun.sampling import GGUF_KEYS
from llmrun.settings import Lora, RunSettings, choose_n_ctx
from llmrun.worker.adapters import LoadedAdapter, load_adapter, set_adapters
from llmrun.worker.affinity import computing_threads
from llmrun.worker.batch import Batch, Part
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.crew import SPLIT_FROM, Crew, is_divided
from llmrun.worker.devices import devices
from llmrun.worker.hidden import HiddenRows
from llmrun.worker.load_errors import context_error, load_error
from llmrun.worker.log import engine_log
from llmrun.worker.params import context_params, model_params
from llmrun.worker.vocabulary import Vocabulary

# sizeof in C of the structs passed by value, llama.cpp 0c1e57098 on 64-bit machines: a mismatch would corrupt memory.
_STRUCT_SIZES = {"llama_model_params": 80, "llama_context_params": 160, "llama_batch": 56}

_ALLOCATION_FAILED = -2  # llama_decode's status (llama.h)

# Whose KV cache has sums beside it, so that no tail of it can be dropped (llama-kv-cache-dsv4.cpp)
_KEPT_STATES = frozenset({"deepseek4"})


def start_backend() -> None:
    """Check that these are the bindings we were written for, and start llama.cpp's backend. Call once."""
    for name, expected in _STRUCT_SIZES.items():
        found = ctypes.sizeof(getattr(lib, name))
        if found != expected and ctypes.sizeof(ctypes.c_void_p) == 8:
            raise EngineError(
                f"the installed llama-cpp-python does not match llmrun: {name} has {found} bytes, expected {expected}",
                "`llmrun doctor --fix` installs the version that does",
            )
    engine_log()
    lib.llama_backend_init()


def load_model(path: Path, settings: RunSettings, on_progress: Callable[[float], bool] | None = None) -> Model:
    """Load weights and vocabulary; `on_progress` gets 0 to 1 and returns False to give up.

    Raises GGUFError for a file llama.cpp refuses, InsufficientMemoryError where an allocation failed, UsageError or
    EngineError for a device that cannot be used.
    """
    params = model_params(settings)
    if on_progress is not None:
        params.progress_callback = lib.llama_progress_callback(lambda fraction, _: on_progress(fraction))
    return _open_model(path, params, str(path))


def load_ghost(path: Path, settings: RunSettings) -> Model:
    """Load a file's header as if its weights were there, and allocate nothing for them."""
    params = model_params(settings)
    params.no_alloc = True
    params.load_mode = (
        lib.LLAMA_LOAD_MODE_NONE
    )  # to map what is not allocated is an abort (llama-model.cpp, load_tensors)
    return _open_model(path, params, "the model")


def _open_model(path: Path, params: Any, name: str) -> Model:
    with engine_log().collecting() as complaints:
        pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not pointer:
        raise load_error(name, complaints)
    model = Model(pointer)
    if not model.has_decoder or not model.vocabulary.n_tokens:
        model.close()
        raise GGUFError(f"{name} holds no model that writes text", "choose a chat or instruct model")
    return model


def load_vocabulary(path: Path) -> Vocabulary:
    """Load only the vocabulary of a file."""
    return load_words(path).vocabulary


def load_words(path: Path) -> Model:
    """Load only the metadata and the vocabulary of a file; the tensors are not looked at."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    with engine_log().collecting() as complaints:
        pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not pointer:
        raise load_error(str(path), complaints)
    return Model(pointer)


class Model:
    """A loaded model: weights and vocabulary. `close` frees both."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.vocabulary = Vocabulary(lib.llama_model_get_vocab(pointer), owner=self)
        self.n_ctx_train = int(lib.llama_model_n_ctx_train(pointer))
        original = self.metadata(f"{self.metadata('general.architecture')}.rope.scaling.original_context_length") or ""
        self.n_ctx_original = int(original) if original.isdecimal() else self.n_ctx_train
        self.n_params = int(lib.llama_model_n_params(pointer))
        self.size = int(lib.llama_model_size(pointer))
        self.n_swa = int(lib.llama_model_n_swa(pointer))
        # such memories hold one state, not one entry a token: a tail cannot be taken off
        self.is_recurrent = bool(lib.llama_model_is_recurrent(pointer) or lib.llama_model_is_hybrid(pointer))
        self.can_drop = not (self.is_recurrent or self.metadata("general.architecture") in _KEPT_STATES)
        self.has_decoder = bool(lib.llama_model_has_decoder(pointer))
        self.pooling = int(self.metadata(f"{self.metadata('general.architecture')}.pooling_type") or 0)
        self.adapters: tuple[LoadedAdapter, ...] = ()  # given to each context that is made

    def metadata(self, key: str) -> str | None:
        """Return a scalar metadata value as text, None where the file has no such key."""
        size = lib.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def description(self) -> str:
        """Return llama.cpp's one-line description, such as "qwen3 8B Q4_K - Medium", without its question marks."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace").replace(" ?B", "").replace(" (guessed)", "")

    def chat_template(self, name: str | None = None) -> str | None:
        """Return the file's default chat template, or one that it has by name."""
        source = lib.llama_model_chat_template(self.pointer, None if name is None else name.encode())
        return None if source is None else source.decode("utf-8", "replace")

    def recommended_sampling(self) -> dict[str, float]:
        """Return the file's own sampling recommendations by GGUF key; values that are no numbers are left out."""
        found: dict[str, float] = {}
        for key in GGUF_KEYS.values():
            with contextlib.suppress(ValueError):
                found[key] = float(self.metadata(key) or "")
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def load_adapters(self, loras: Sequence[tuple[Path, Lora]]) -> None:
        """Read adapters, each from a file, for all contexts that are made from here on; raises as load_adapter."""
        self.adapters = tuple(load_adapter(self.pointer, path, lora) for path, lora in loras)

    def close(self) -> None:
        """Free the model and its adapters; its contexts must be closed before."""
        if self.pointer:
            lib.llama_model_free(self.pointer)
            self.pointer = None


def make_context(model: Model, settings: RunSettings, cancel: CancelFlag | None = None, *, is_mtp: bool = False) -> Any:
    """Return a pointer to a new context, which llama_free takes back; `cancel` must live as long as it.

    is_mtp: one that runs the model's layers for multi-token prediction, and nothing else. Raises
    InsufficientMemoryError where an allocation failed, UsageError or EngineError for settings that do not work.
    """
    params = context_params(settings, model.n_ctx_train)
    params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP if is_mtp else lib.LLAMA_CONTEXT_TYPE_DEFAULT
    if cancel is not None:
        params.abort_callback = cancel.callback
        params.abort_callback_data = cancel.address
    with engine_log().collecting() as complaints:
        pointer = lib.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise context_error(settings, int(params.n_ctx), model.n_ctx_train, complaints)
    if model.adapters:
        set_adapters(pointer, model.adapters)
    return pointer


class Context:
    """A KV cache and the buffers to compute with, for the sequences of one model, which are numbered from 0.

    n_ctx: tokens that each sequence can hold, as wished; llama.cpp allocates the next multiple of 256, which is not
    ours to use. Where the cells are one stream (kv_unified), all sequences together cannot hold more than that either.
    n_draft_max: tokens that can be guessed and verified in one step; 0 where their memory could not drop a wrong one.
    hidden: keeps the last hidden states of each sequence, None where nobody wants them.
    """

    is_mtp = False  # see make_context

    def __init__(self, model: Model, settings: RunSettings, cancel: CancelFlag) -> None:
        self._cancel = cancel  # owns the memory that the abort callback reads
        self.pointer = make_context(model, settings, cancel, is_mtp=self.is_mtp)
        self.model = model
        self.n_seq_max = settings.n_seq_max
        self.is_unified = settings.kv_unified or settings.n_seq_max == 1
        wished = choose_n_ctx(settings.n_ctx, model.n_ctx_train)
        each = wished if self.is_unified else wished // self.n_seq_max
        self.n_ctx = min(each, int(lib.llama_n_ctx_seq(self.pointer)))
        # one step of the prompt: a physical batch, so that progress is seen and a cancel is heard after each
        self.n_step = int(lib.llama_n_ubatch(self.pointer))
        self._memory = lib.llama_get_memory(self.pointer)
        # Keys that are rotated where they lie. ggml cannot do that with bf16 (ops.cpp, rope: an abort); quantized ones
        # it turns into f32 first, all of a layer: 126 MiB for 16,384 cells of 1,024 numbers, which no plan has counted.
        self.can_move = (
            not model.is_recurrent
            and settings.type_k in ("f16", "f32")
            and bool(lib.llama_memory_can_shift(self._memory))
        )
        # what was read can be cut off again, whatever its length: see can_keep
        self.can_cut = not model.is_recurrent and (model.n_swa == 0 or settings.swa_full)
        # beyond this llama.cpp takes other factors for all positions, where a model has them (get_rope_factors)
        self.is_stretched = int(lib.llama_n_ctx_seq(self.pointer)) > model.n_ctx_original
        self.n_embd = int(lib.llama_model_n_embd(model.pointer))
        self.n_outputs = settings.n_outputs_max
        self.move_pending = False  # keys are rotated by the next decode: until then they are not what they stand for
        self.n_rows = min(max(self.n_step, 2 * self.n_seq_max), int(lib.llama_n_batch(self.pointer)))
        self._batch = Batch(self.n_rows, self.n_embd if self.is_mtp else 0)
        self.hidden: HiddenRows | None = None
        most = min(settings.n_draft_max, self.n_outputs - 1, self.n_rows - 1, self.n_step - 1)
        self.n_draft_max = max(0, most) if model.can_drop else 0
        self.crew: Crew | None = None  # chooses the threads of each step; without one they are as the settings say
        self.keeps_threads = False  # whether the answer is to be the same whenever it is asked for
        self._divides = is_divided(settings)
        self._places = computing_threads().places(settings.affinity)

    def set_threads(self, decode: int, batch: int) -> None:
        """Compute with so many threads from here on: one token, and several."""
        lib.llama_set_n_threads(self.pointer, decode, batch)

    def bind_threads(self, n_threads: int) -> None:
        """Have so many threads where the settings want them, before they compute."""
        computing_threads().bind(self._places, n_threads)

    def decode(self, tokens: Sequence[int], position: int, *, want_logits: bool, seq: int = 0) -> int:
        """Read at most n_step tokens, the first at `position`; logits are kept for the last one if wanted.

        Returns llama_decode's status: 0 is well, 1 no room, 2 cancelled, negative a failure.
        """
        return self.decode_parts((Part(seq, tokens, position, want_logits),))

    def begin_answer(self, *, keeps_threads: bool) -> None:
        """Hear that an answer begins, and whether it is to be the same whenever it is asked for."""
        self.keeps_threads = keeps_threads
        if self.crew is not None:
            self.crew.begin()

    def wait(self) -> None:
        """Wait until what was read is computed: a device goes on after `decode` has returned."""
        lib.llama_synchronize(self.pointer)

    def decode_parts(self, parts: Sequence[Part]) -> int:
        """Read tokens of many sequences in one batch, at most n_rows together; returns the status as `decode` does."""
        self._batch.fill(parts)
        status = self._decode(parts[-1].position)
        if status == 0 and self.hidden is not None:
            self.hidden.take(parts)
        return status

    def _decode(self, position: int) -> int:
        if self.move_pending:
            return self._decode_after_moves()
        if self.crew is None:
            return self._llama_decode()
        still = self.keeps_threads and self._divides and position >= SPLIT_FROM
        return self.crew.compute(self._batch.struct.n_tokens, self._compute, still=still)

    def _llama_decode(self) -> int:
        n_threads = lib.llama_n_threads if self._batch.struct.n_tokens == 1 else lib.llama_n_threads_batch
        self.bind_threads(n_threads(self.pointer))
        return int(lib.llama_decode(self.pointer, self._batch.struct))

    def _compute(self) -> int:
        status = self._llama_decode()
        lib.llama_synchronize(self.pointer)  # so that the time of layers on devices is seen too
        return status

    def _decode_after_moves(self) -> int:
        """Decode the batch; where the keys could not be rotated llama.cpp only says so and goes on (llama-kv-cache.cpp,
        update), which is a failed allocation to us."""
        with engine_log().collecting() as complaints:
            status = self._llama_decode()
        if status == 0 and any("K-shift" in line for line in complaints):
            return _ALLOCATION_FAILED
        self.move_pending = status != 0
        return status

    def logits(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the logits of a row of the last batch, where they lie: they are gone with the next one."""
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.pointer, row), (self.model.vocabulary.n_tokens,))

    def embed(self, part: Part) -> int:
        """Read tokens for their last hidden states, at most n_outputs of them; returns the status as `decode` does."""
        self._batch.fill((part,), all_outputs=True)
        lib.llama_set_embeddings(self.pointer, True)
        try:
            return self._llama_decode()
        finally:
            lib.llama_set_embeddings(self.pointer, False)

    def embeddings(self, n_rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the last hidden states of the rows of the last `embed`, where they lie."""
        return np.ctypeslib.as_array(lib.llama_get_embeddings_ith(self.pointer, 0), (n_rows, self.n_embd))

    def last_refusal(self) -> Refusal | None:
        """Return what allocation was refused, if the log complained of one since this context was made."""
        return parse_refusal(engine_log().complaints, devices().by_buffer_type())

    def n_past(self, seq: int = 0) -> int:
        """Return how many tokens of a sequence the memory holds."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    def keep(self, n_tokens: int, seq: int = 0) -> int:
        """Forget all but the first n_tokens; returns how many really stay: fewer where that cannot be done exactly."""
        n_past = self.n_past(seq)
        if n_tokens >= n_past:
            return n_past
        if not self.can_keep(n_tokens, seq) or not lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1):
            self.forget(seq)
            return 0
        return n_tokens

    def can_keep(self, n_tokens: int, seq: int) -> bool:
        """Tell whether a sequence can be cut to its first n_tokens, of more that it has.

        A recurrent state has no past to go back to. A sliding-window cache has dropped what lay before its window:
        going back to n needs position n − n_swa still present (rule of llama.cpp's tools/server/server-context.cpp).
        """
        if n_tokens >= self.n_past(seq):
            return True
        first = int(lib.llama_memory_seq_pos_min(self._memory, seq))
        too_old = self.model.n_swa > 0 and first >= max(1, n_tokens - self.model.n_swa)
        return not (self.model.is_recurrent or too_old)

    def drop(self, n_tokens: int, seq: int) -> bool:
        """Forget all but a sequence's first n_tokens, where only rows of the last step go; False where it could not.

        Sliding windows can: the step took cells that its first row did not see, nor any later one (find_slot).
        """
        return bool(lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1))

    def copy(self, source: int, target: int) -> None:
        """Let a sequence hold what another does, in the place of what it held.

        Of one stream the cells are shared; of two they are copied before the next decode, whether or not in use.
        """
        self.forget(target)
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def move(self, old: int, new: int, n_tokens: int, seq: int = 0) -> None:
        """Move tokens from position `old` down to `new`; what lay between is forgotten. Only where `can_move`.

        llama.cpp's context shift: keys are rotated to their new positions, values stay (llama-kv-cache.cpp,
        build_graph_shift), as tools/server does for n_cache_reuse.
        """
        lib.llama_memory_seq_rm(self._memory, seq, new, old)
        lib.llama_memory_seq_add(self._memory, seq, old, old + n_tokens, new - old)
        self.move_pending = True

    def state_size(self) -> int:
        """Return how many bytes the state of sequence 0 takes outside."""
        return int(lib.llama_state_seq_get_size(self.pointer, 0))

    def get_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        """Copy the state into a buffer of its size; False where llama.cpp could not."""
        return int(lib.llama_state_seq_get_data(self.pointer, buffer, len(buffer), 0)) == len(buffer)

    def set_state(self, buffer: ctypes.Array[ctypes.c_uint8]) -> bool:
        """Take a state in the memory's place; False where it is none of this context, which is then to be forgotten."""
        return int(lib.llama_state_seq_set_data(self.pointer, buffer, len(buffer), 0)) == len(buffer)

    def forget(self, seq: int = 0) -> None:
        """Empty the memory of one sequence."""
        if self.n_seq_max == 1:
            self.clear()
        else:
            lib.llama_memory_seq_rm(self._memory, seq, -1, -1)

    def clear(self, *, data: bool = False) -> None:
        """Empty all memory. data: overwrite what lay there too, as attention reads free cells before it masks them."""
        lib.llama_memory_clear(self._memory, data)
        self.move_pending = False

    def close(self) -> None:
        """Free everything, threads that were bound too."""
        if self._places:
            computing_threads().release()
        if self.pointer:
            lib.llama_free(self.pointer)
            self.pointer = None
