"""What llama.cpp makes of a wished context: cells, streams and batch sizes after its padding. Knows nothing of models.

Source: llama.cpp 0c1e57098, src/llama-context.cpp (llama_context::llama_context) and src/llama-kv-cache-iswa.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.gguf.header import align
from llmrun.settings import RunSettings, choose_n_ctx

_CELL_PAD = 256  # llama-context.cpp, GGML_PAD(cparams.n_ctx, 256)


@dataclass(frozen=True, slots=True)
class ContextShape:
    """A context as allocated.

    n_ctx: cells of all streams; n_ctx_seq: cells of one; n_stream: 1 when unified, else one for each sequence.
    """

    n_ctx: int
    n_ctx_seq: int
    n_stream: int
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    n_outputs: int
    kv_unified: bool
    swa_full: bool

    def window_cells(self, n_swa: int) -> int:
        """Return the cells a stream has in layers that look back only n_swa tokens."""
        if self.swa_full:
            return self.n_ctx_seq
        wanted = n_swa * (self.n_seq_max if self.kv_unified else 1) + self.n_ubatch
        return align(min(self.n_ctx_seq, wanted), _CELL_PAD)


def context_shape(settings: RunSettings, n_ctx_train: int) -> ContextShape:
    """Return what llama.cpp allocates for these settings and a model trained on n_ctx_train tokens.

    Batch sizes are clamped to the context before that is padded, as llama.cpp does it.
    """
    wished = choose_n_ctx(settings.n_ctx, n_ctx_train)
    n_batch = min(wished, settings.n_batch)
    n_ubatch = min(n_batch, settings.n_ubatch)
    n_ctx = align(wished, _CELL_PAD)
    n_stream = 1 if settings.kv_unified else settings.n_seq_max
    n_ctx_seq = n_ctx if settings.kv_unified else align(n_ctx // settings.n_seq_max, _CELL_PAD)
    return ContextShape(
        n_ctx=n_ctx_seq * n_stream,
        n_ctx_seq=n_ctx_seq,
        n_stream=n_stream,
        n_seq_max=settings.n_seq_max,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_outputs=settings.n_outputs_max,
        kv_unified=settings.kv_unified,
        swa_full=settings.swa_full,
    )
