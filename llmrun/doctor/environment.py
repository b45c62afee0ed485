"""The Python environment llmrun runs in: who made it, so that its packages are replaced by the same hand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from llmrun.doctor.facts import Environment, Maker

ENGINE_PACKAGE = "llama-cpp-python"


def read_environment() -> Environment:
    """Look at the environment of this process."""
    prefix = Path(sys.prefix)
    packages = _packages()
    has_pip = importlib.util.find_spec("pip") is not None
    names = frozenset(path.name for path in prefix.iterdir()) if prefix.is_dir() else frozenset()
    made = choose_maker(names, _text(prefix / "pyvenv.cfg"), has_pip=has_pip)
    maker = choose_installer(made, has_pip=has_pip, has_its_own=shutil.which(made) is not None)
    return Environment(
        maker=maker or made,
        prefix=prefix,
        python=sys.executable,
        packages=packages,
        managed=sys.prefix == sys.base_prefix and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file(),
        writable=os.access(packages, os.W_OK),
        installer=maker is not None,
    )


def choose_maker(names: frozenset[str], pyvenv: str, *, has_pip: bool) -> Maker:
    """Return who installs packages: by the files in the environment's folder and the text of its pyvenv.cfg.

    pipx and `uv tool` leave a file of their own; uv writes a line into pyvenv.cfg, and puts no pip in.
    """
    if "pipx_metadata.json" in names:
        return "pipx"
    if "uv-receipt.toml" in names or re.search(r"^uv\s*=", pyvenv, re.MULTILINE) or not has_pip:
        return "uv"
    return "pip"


def choose_installer(made: Maker, *, has_pip: bool, has_its_own: bool) -> Maker | None:
    """Return who replaces packages: who made the environment where that program is there, else its pip; None: nobody.

    pipx lets pip be found in the environments it makes; uv puts none in, and need not be on PATH any more.
    """
    if made != "pip" and has_its_own:
        return made
    return "pip" if has_pip else None


def installed_engine() -> str | None:
    """Return the version of llama-cpp-python that is installed, None where there is none."""
    try:
        return importlib.metadata.version(ENGINE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_engine() -> str | None:
    """Return the version of llama-cpp-python that llmrun was made for; None where llmrun is not installed."""
    try:
        lines = importlib.metadata.requires("llmrun") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return parse_requirement(lines)


def parse_requirement(lines: list[str]) -> str | None:
    """Return the pinned version of the engine out of a package's requirements."""
    matches = (re.match(r"llama[-_.]cpp[-_.]python\s*\(?==\s*([\w.]+)", line) for line in lines)
    return next((match[1] for match in matches if match), None)


def _packages() -> Path:
    """Where the engine is installed, or would be."""
    try:
        return Path(str(importlib.metadata.distribution(ENGINE_PACKAGE).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        return Path(sysconfig.get_path("platlib"))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
