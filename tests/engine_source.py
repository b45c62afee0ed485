"""Files of llama.cpp, out of the source distribution of llama-cpp-python that the set-up script keeps for the tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

_KEPT = Path(__file__).parents[1] / ".venv" / "engine" / "llama_cpp_python-0.3.36.tar.gz"
_LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp/"


@functools.cache
def extract_folder(name: str) -> Path:
    """The files under llama.cpp's folder `name`, subfolders included, in a folder that lives as long as the tests run.

    The archive is LLMRUN_ENGINE_SDIST, or where scripts/test puts it; without it the test fails.
    """
    archive = Path(os.environ.get("LLMRUN_ENGINE_SDIST") or _KEPT)
    if not archive.is_file():
        pytest.fail(f"{archive} is missing: run scripts/test, or name it in LLMRUN_ENGINE_SDIST", pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="llmrun-engine-source-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prefix = f"{_LLAMA_CPP}{name}/"
    with tarfile.open(archive, "r|gz") as stream:
        for member in stream:
            if member.isfile() and member.name.startswith(prefix):
                _extract(stream, member, folder / member.name.removeprefix(prefix))
    return folder


def _extract(stream: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = stream.extractfile(member)
    assert content is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
