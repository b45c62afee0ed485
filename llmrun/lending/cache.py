"""The tensors that came once, kept by llama.cpp's RPC server: bounded here, and only whole ones believed.

ggml keeps every tensor of 10 MiB and more in a file named by the FNV-1a hash of its bytes, for ever, and does not look
at what is in a file before it uses it: one that was cut off, because the server died or the disk was full, would be
wrong weights. So a list is kept of the files that were whole while nobody borrowed, and what is not on it goes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from llmrun.private import enter_private, read_private, write_private
from llmrun.state_files import allowance, choose_victims

MOST_BYTES = 64 << 30  # a model of 70B parameters at Q4_K_M has 40 GiB
MOST_OF_DISK = 1 / 2
_LIST, _LOCK = "whole.json", "lock"
_MOST_OF_LIST = 1 << 24  # bytes: a file takes some thirty
_NEARLY_FULL = 1 << 30  # bytes free on the disk: with fewer, what was written last may have been cut off


class TensorCache:
    """A folder of tensors, one lender's at a time. most: bytes they may take, where the disk has room for twice that.

    path: where it is.
    """

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self.path, self._most = path, most
        self._lock = FileLock(path / _LOCK, timeout=0, thread_local=False)  # a lender opens it in two threads
        self._was_tight = False  # since the list was made: what has come since then may have been cut off

    def open(self) -> str | None:
        """Make the folder, take it, and remove what may not be whole and what is too much; returns why that cannot be.

        Call while no server of this lender runs; who has the folder already may do it again.
        """
        if not enter_private(self.path, make=True):
            return f"{self.path} is not this user's alone"
        if not self._lock.is_locked:
            try:
                self._lock.acquire()
            except (Timeout, OSError):
                return f"another lender of this machine uses {self.path}"
        whole = self._read_list()
        for name, size in self._sizes().items():
            if whole.get(name) != size:
                self._remove(name)
        self.settle()
        return None

    def close(self) -> None:
        """Leave the folder to others."""
        self._lock.release()

    def bound(self) -> None:
        """Remove what is too much, and see whether the disk is nearly full; may be called while somebody borrows."""
        with contextlib.suppress(OSError):
            free, found = shutil.disk_usage(self.path).free, self._sizes()
            self._was_tight |= free < _NEARLY_FULL
            most = allowance(free, sum(found.values()), self._most, MOST_OF_DISK)
            for name in choose_victims(found, sorted(found, key=self._used), most):
                self._remove(name)

    def settle(self, is_idle: Callable[[], bool] = lambda: True) -> None:
        """Remove what is too much, and note what is whole, where nobody borrows of a server that lives.

        is_idle tells whether that is so. It is asked once the files were looked at: what is begun later is not noted.
        """
        self.bound()
        found = self._sizes()
        if not is_idle():
            return
        if self._was_tight:
            whole = self._read_list()
            for name in [name for name, size in found.items() if whole.get(name) != size]:
                self._remove(name)
                del found[name]
        try:
            write_private(self.path / _LIST, json.dumps(found).encode())
            self._was_tight = False
        except OSError:  # no room even for that, or a quota
            self._was_tight = True

    @property
    def size(self) -> int:
        """Bytes of all tensors that are kept."""
        return sum(self._sizes().values())

    def clear(self) -> tuple[int, int]:
        """Remove all tensors; returns how many there were, and their bytes."""
        found = self._sizes() if enter_private(self.path) else {}
        for name in found:
            self._remove(name)
        return len(found), sum(found.values())

    def _sizes(self) -> dict[str, int]:
        with contextlib.suppress(OSError):
            return {file.name: file.stat().st_size for file in self.path.iterdir() if _is_tensor(file)}
        return {}

    def _used(self, name: str) -> float:
        with contextlib.suppress(OSError):
            found = (self.path / name).stat()
            return max(found.st_atime, found.st_mtime)
        return 0.0

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).unlink()

    def _read_list(self) -> dict[str, int]:
        with contextlib.suppress(ValueError):
            found = json.loads(read_private(self.path / _LIST, _MOST_OF_LIST) or b"{}")
            if isinstance(found, dict):
                return found
        return {}


def _is_tensor(file: Path) -> bool:
    """Whether a file is one of ggml's: 16 hexadecimal digits."""
    return len(file.name) == 16 and not set(file.name) - set("0123456789abcdef") and file.is_file()
