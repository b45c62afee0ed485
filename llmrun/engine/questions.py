"""Questions to the engine about memory, each asked once: answers are kept, in this process and, if wanted, in files.

Must not know what a question is for, nor how it is answered. Only questions without devices go to files: devices come
and go, and a driver's next version may pad differently.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llmrun.engine.build import engine_id
from llmrun.engine.protocol import DryRun, DryRunResult
from llmrun.engine.wire import FrameDecoder, encode
from llmrun.errors import EngineError
from llmrun.memory.engine_memory import EngineMemory
from llmrun.settings import MTP, RunSettings

# Raise when what is asked, how it is read or how an answer is written changes: old answers are then asked for anew.
FORMAT = 1
MAX_FILES = 512  # answers kept, of about 500 bytes each; the oldest go first

DryRunner = Callable[[bytes, int, RunSettings], EngineMemory]


class Questions:
    """Answers of an engine to `dry_run`, remembered. `folder` is where they outlive the process, None is nowhere.

    ask: `Engine.dry_run`, or whatever else answers like it.
    """

    def __init__(self, ask: DryRunner, folder: Path | None = None, beside: Sequence[bytes] = ()) -> None:
        """beside: what all questions are about besides the model, as the headers of its adapters."""
        self._ask = ask
        self._folder = folder
        self._beside = tuple(beside)
        self._known: dict[str, EngineMemory] = {}

    def memory(self, header: bytes, size: int, settings: RunSettings) -> EngineMemory:
        """Return what a model of this header would take; raises what `Engine.dry_run` does, and remembers no error."""
        # neither threads nor the way the weights come in change a dry run, nor how much of an adapter is added
        alone = replace(settings, loras=(), projector=None, draft=MTP if settings.draft == MTP else None)
        asked = replace(alone, n_threads=1, n_threads_batch=1, affinity="free", n_draft_max=0, load_mode="none")
        key = _key(header, size, asked, self._beside)
        if key not in self._known:
            path = self._folder / f"{key}.answer" if self._folder is not None and asked.devices == () else None
            found = None if path is None else _read(path)
            if found is None:
                found = self._ask(header, size, asked)
                if path is not None:
                    _write(path, found)
            self._known[key] = found
        return self._known[key]


def _key(header: bytes, size: int, settings: RunSettings, beside: tuple[bytes, ...]) -> str:
    """Name a question: anything that may change its answer is in it."""
    digests = tuple(hashlib.sha256(one).digest() for one in beside)
    digest = hashlib.sha256(encode(DryRun(hashlib.sha256(header).digest(), size, settings, digests)))
    digest.update("\n".join((*engine_id(), f"questions {FORMAT}")).encode())
    return digest.hexdigest()


def _read(path: Path) -> EngineMemory | None:
    """Return the answer in a file, None where there is none: what cannot be read is asked again."""
    try:
        (message,) = FrameDecoder().feed(path.read_bytes())
    except (OSError, EngineError, ValueError):
        return None
    return message.memory if isinstance(message, DryRunResult) else None


def _write(path: Path, memory: EngineMemory) -> None:
    """Put an answer into a file, whole or not at all; a cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(encode(DryRunResult(memory)))
        Path(file.name).replace(path)
        _forget_oldest(path.parent)


def _forget_oldest(folder: Path) -> None:
    files = [(entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(folder) if entry.is_file()]
    for _, path in sorted(files)[: max(0, len(files) - MAX_FILES)]:
        Path(path).unlink(missing_ok=True)
