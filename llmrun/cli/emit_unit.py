"""The systemd unit of `llmrun serve --emit systemd`: what of it this machine and this user decide."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from llmrun import pipeline
from llmrun.cli.deployed import Deployed, absolute, placed
from llmrun.deployment.options import serve_words, without
from llmrun.deployment.unit import Unit
from llmrun.folders import answers_folder
from llmrun.hub.store import cache_folder
from llmrun.reference import LocalRef, parse_reference

# Variables that say where things are, and which GPU is meant. None of them is a secret: HF_TOKEN is not among them.
_CARRIED = (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_SYMLINKS"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "OLLAMA_MODELS", "LLAMA_CPP_LIB_PATH", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"),
)


def unit_of(deployed: Deployed) -> Unit:
    """Return the unit; paths are absolute in it."""
    wish = deployed.wish
    key_file = wish.gate.api_key_file
    options = placed(without(deployed.options, "--api-key-file"), _lasting)
    return Unit(
        program_of(Path(sysconfig.get_path("scripts")), sys.executable),
        serve_words(map(_lasting, wish.models), options),
        deployed.limits,
        wish.gate.grace,
        None if key_file is None else absolute(key_file),
        tuple(map(str, _writable())),
        {name: value for name in _CARRIED if (value := os.environ.get(name)) and "@" not in value},
        deployed.mlock,
        "CUDA" in deployed.backends,
    )


def program_of(scripts: Path, python: str) -> tuple[str, ...]:
    """Return what starts llmrun: the program that pip put beside this Python, else this Python and the module."""
    program = scripts / "llmrun"
    return (str(program),) if program.is_file() else (python, "-P", "-m", "llmrun.cli.main")


def _lasting(typed: str) -> str:
    """Return what means the same model, by the same name, in every folder."""
    reference = parse_reference(typed, pipeline.hub_address())
    return str(absolute(reference.path)) if isinstance(reference, LocalRef) else typed


def _writable() -> tuple[Path, ...]:
    """The Hub's folder, and llmrun's own where that is not below the cache folder systemd knows."""
    hub = cache_folder()
    own = (answers_folder().parent,) if "XDG_CACHE_HOME" in os.environ else ()
    return (hub.parent if hub.name == "hub" else hub, *own)


def unit_notes() -> Iterator[str]:
    """Say what is to be done before the unit can start."""
    for folder in _writable():
        if not folder.is_dir():
            yield f"make the folder for models before: mkdir -p {shlex.quote(str(folder))}"
