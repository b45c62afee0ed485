"""The container of `llmrun serve --emit containerfile|compose`: what of it this machine and this user decide."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from llmrun import __version__, pipeline
from llmrun.cli.deployed import Deployed, absolute, placed
from llmrun.cli.names import lasting_reference
from llmrun.deployment.container import KEYS, MODELS, OWN_KEYS, USER, Backend, Container, backend_of
from llmrun.deployment.options import Option, serve_words, with_value, without
from llmrun.deployment.package import requirement_of, wheel_name
from llmrun.doctor.environment import installed_engine, required_engine
from llmrun.errors import UsageError
from llmrun.gguf.source import split_paths
from llmrun.hardware.gpus import read_gpus
from llmrun.reference import LocalRef, ModelRef, ShelfRef, format_reference, parse_reference
from llmrun.server.origins import is_loopback
from llmrun.settings import AUTO, MTP

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what the word means
_TARGETS = {"CUDA": "nvidia", "ROCm": "amd"}
_GPU_FILES = {"ROCm": ("kfd", "dri/renderD*"), "Vulkan": ("dri/renderD*",)}


def container_of(deployed: Deployed, references: Sequence[ModelRef]) -> Container:
    """Return the container; references: of all models, in the order of the plans.

    Raises UsageError for a model that cannot be taken into one, or an address that no port can be opened at.
    """
    wish = deployed.wish
    files: dict[str, str] = {}
    inside: dict[str, str] = {}
    for number, (reference, one) in enumerate(zip(references, deployed.planned, strict=True)):
        names = [Path(file.name).name for file in one.variant.files]
        inside[lasting_reference(reference)] = _taken_in(reference, names, f"{MODELS}/{number}", files)
    draft = wish.constraints.draft
    if draft is not None and draft not in (AUTO, MTP):
        reference = parse_reference(draft, pipeline.hub_address())
        names = [path.name for path in split_paths(reference.path)] if isinstance(reference, LocalRef) else []
        inside[draft] = _taken_in(reference, names, f"{MODELS}/draft", files)

    def place(typed: str) -> str:
        return inside[lasting_reference(parse_reference(typed, pipeline.hub_address()))] or typed

    backend = backend_of(deployed.backends)
    requirement = _requirement()
    return Container(
        arguments=serve_words(map(place, wish.models), placed(_inner_options(deployed), place)),
        port=wish.address.port,
        limits=deployed.limits,
        patience=wish.gate.grace,
        requirement=requirement or wheel_name(__version__),
        engine=required_engine() or installed_engine() or "",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        wheel=requirement is None,
        backend=backend,
        targets=_targets(backend),
        files=files,
        keys=_keys(deployed),
        publish=_publish(wish.address.host),
        user=_user(),
        groups=_groups(backend),
        mlock=deployed.mlock,
    )


def container_notes(form: str, container: Container, deployed: Deployed) -> Iterator[str]:
    """Say what is to be done before the container can start."""
    if form == "compose":
        yield "it builds from a Containerfile beside it: --emit containerfile writes that"
    else:
        yield "its first lines say how to build and to run it"
    if container.keys is not None and sys.platform != "win32" and os.getuid() != container.user:
        yield f"the keys must be user {container.user}'s: chown {container.user} {shlex.quote(container.keys)}"
    if container.wheel:
        yield "it takes llmrun as a wheel: pip wheel --no-deps -w . DIRECTORY_OF_LLMRUN"
    if container.keys == OWN_KEYS:
        yield f'make a key: (umask 077; echo "me: $(openssl rand -hex 32)" > {OWN_KEYS})'
    if deployed.wish.address.host in _ANYWHERE and not deployed.wish.gate.allow_host:
        yield "other machines are answered by the names of --allow-host NAME alone"


def _taken_in(reference: ModelRef, names: Sequence[str], folder: str, files: dict[str, str]) -> str:
    """Note the files that must be taken in; return what the model is called inside, "" is as it was typed.

    names: of its files.
    """
    if isinstance(reference, ShelfRef):
        raise UsageError(
            f"{format_reference(reference)} lies in another program's folder, which is not in a container",
            "name its file by its path, or the model as the Hub has it",
        )
    if not isinstance(reference, LocalRef):
        return ""
    path = absolute(reference.path)
    inside = f"{folder}/{path.name}"
    outer = (path,) if path.is_dir() else tuple(path.parent / name for name in names)
    files.update((str(one), f"{folder}/{one.name}") for one in outer)
    return inside


def _inner_options(deployed: Deployed) -> tuple[Option, ...]:
    """The options as they are inside: where it listens there, and where the keys are."""
    address = deployed.wish.address
    options = without(deployed.options, "--api-key-file")
    if not is_loopback(address.host) and address.host not in _ANYWHERE:
        options = (*options, Option("--allow-host", address.host))  # what clients call it, and is no address inside
    options = with_value(options, "--host", "0.0.0.0")  # noqa: S104 - of the container, with a key
    options = with_value(options, "--port", str(address.port))
    return options if _keys(deployed) is None else with_value(options, "--api-key-file", KEYS)


def _keys(deployed: Deployed) -> str | None:
    gate = deployed.wish.gate
    if gate.api_key_file is not None:
        return str(absolute(gate.api_key_file))
    return None if gate.insecure else OWN_KEYS


def _publish(host: str) -> str:
    """Return the address that the port is opened at; raises UsageError for a name, which could be several."""
    if is_loopback(host):
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise UsageError(
            f"a container's port is opened at an address, and {host} is a name", "--host 0.0.0.0 is all of them"
        ) from error
    return f"[{address}]" if address.version == 6 else str(address)


def _requirement() -> str | None:
    """What pip installs this llmrun from, None where it can only be had from here."""
    try:
        found = importlib.metadata.distribution("llmrun")
    except importlib.metadata.PackageNotFoundError:
        return None
    return requirement_of(__version__, found.read_text("direct_url.json"))


def _targets(backend: Backend) -> tuple[str, ...]:
    vendor = _TARGETS.get(backend)
    if vendor is None:
        return ()
    found = {gpu.target for gpu in read_gpus().gpus if gpu.vendor == vendor and gpu.target}
    return tuple(sorted(target.replace(".", "") for target in found))


def _user() -> int:
    """Return whose files the keys are: the user's who asks, unless that is root."""
    return (os.getuid() if sys.platform != "win32" else 0) or USER


def _groups(backend: Backend) -> tuple[int, ...]:
    """Return the groups that may use the GPU on this machine: their numbers count in a container too."""
    found: set[int] = set()
    for pattern in _GPU_FILES.get(backend, ()):
        for file in Path("/dev").glob(pattern):
            with suppress(OSError):
                found.add(file.stat().st_gid)
    return tuple(sorted(found - {0}))
