"""A systemd unit that serves as a command line said. Pure.

Sources: systemd.service(5), systemd.exec(5), systemd.resource-control(5) of systemd 252.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from llmrun.deployment.limits import MemoryLimits, mib
from llmrun.deployment.quoting import systemd_argument, systemd_path, systemd_word
from llmrun.errors import UsageError

KEYS = "${CREDENTIALS_DIRECTORY}/api-keys"
_CREDENTIAL = "api-keys"
# After answers had their time, a model is unloaded: gigabytes are given back, and a driver is left
_UNLOADING = 15


@dataclass(frozen=True, slots=True)
class Unit:
    """What the unit is made of.

    program: what to start, the first word an absolute path. arguments: from `serve` on, without those about keys.
    key_file: absolute. patience: seconds that answers have at the end. writable: folders where models come to lie, and
    llmrun's own where it is not the usual one. environment: variables that say where things are. mlock: whether the
    plan keeps pages in memory. has_cuda: whether it uses NVIDIA's driver.
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    limits: MemoryLimits
    patience: float
    key_file: PurePath | None = None
    writable: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mlock: bool = False
    has_cuda: bool = False


def unit_text(unit: Unit) -> str:
    """Return the file's text; raises UsageError for a path that systemd cannot be told of."""
    sections = (
        _head(),
        _service(unit),
        _memory(unit),
        _end(unit),
        _protection(unit),
        ("[Install]", "WantedBy=default.target"),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def stop_seconds(patience: float) -> int:
    """Return how long the end may take: time for answers, and time to unload."""
    return max(1, math.ceil(patience)) + _UNLOADING


def _head() -> tuple[str, ...]:
    return (
        "# A unit of the user who starts it, written by `llmrun serve --emit systemd`. To enable it:",
        "#   llmrun serve ... --emit systemd > ~/.config/systemd/user/llmrun.service",
        "#   systemctl --user daemon-reload",
        "#   systemctl --user enable --now llmrun",
        "# To have it run while nobody is logged in, once: loginctl enable-linger",
        "",
        "[Unit]",
        "Description=llmrun, language models for many clients",
    )


def _service(unit: Unit) -> Iterator[str]:
    yield "[Service]"
    yield "Type=exec"
    yield f"ExecStart={_command(unit)}"
    if unit.key_file is not None:
        yield "# the keys stay in their file: systemd hands the server a copy that only it can read"
        yield f"LoadCredential={_CREDENTIAL}:{systemd_path(str(unit.key_file))}"
    for name, value in unit.environment.items():
        yield f"Environment={systemd_word(f'{name}={value}')}"
    yield "Restart=on-failure"
    yield "RestartSec=5s"
    yield "# what the command line says makes no sense, or there is no such model: trying again would not help"
    yield "RestartPreventExitStatus=2 5 6"
    if unit.has_cuda:
        yield "# NoNewPrivileges keeps CUDA from making the driver's device files: nvidia-persistenced does it at boot"


def _command(unit: Unit) -> str:
    """The program's own path is no place for variables, and must be absolute."""
    first, *rest = unit.program
    if not PurePath(first).is_absolute():
        raise UsageError(f"{first!r} is no absolute path, and systemd wants one")
    words = [systemd_word(first), *map(systemd_argument, (*rest, *unit.arguments))]
    if unit.key_file is not None:
        words += ["--api-key-file", KEYS]
    return " ".join(words)


def _memory(unit: Unit) -> Iterator[str]:
    limits = unit.limits
    yield "# Memory, as planned when this was written:"
    yield f"#   {mib(limits.models):>9,} MiB  the models: weights, KV cache, compute and overhead in RAM"
    yield f"#   {mib(limits.server):>9,} MiB  the server beside them"
    yield f"#   {mib(limits.reserve):>9,} MiB  reserve, which a plan leaves free of whatever it may have"
    yield "# MemoryHigh is their sum, and what llmrun plans within; MemoryMax leaves the kernel 5 % to take pages back."
    yield f"MemoryHigh={mib(limits.high)}M"
    yield f"MemoryMax={mib(limits.most)}M"
    yield "# a plan counts on RAM alone: weights in swap would be read again for every token"
    yield "MemorySwapMax=0"
    yield "# a model that is killed for memory is loaded again by the server, which need not end for it"
    yield "OOMPolicy=continue"
    if unit.mlock:
        yield "# the plan keeps the weights in memory; a user's own limit on that may have to be raised as well"
        yield "LimitMEMLOCK=infinity"


def _end(unit: Unit) -> tuple[str, ...]:
    return (
        "# The server alone is told to end, and its models may finish what they are answering.",
        "KillSignal=SIGTERM",
        "KillMode=mixed",
        f"TimeoutStopSec={stop_seconds(unit.patience)}s",
    )


def _protection(unit: Unit) -> Iterator[str]:
    yield "# It may write where models and its own files are kept, and nowhere else. Where a kernel lets users have no"
    yield "# namespaces (Ubuntu since 23.10), systemd leaves out ProtectSystem to PrivateTmp and runs it all the same."
    yield "NoNewPrivileges=yes"
    yield "ProtectSystem=strict"
    yield "ProtectHome=read-only"
    yield "ProtectControlGroups=yes"
    yield "ProtectKernelTunables=yes"
    yield "PrivateTmp=yes"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "RestrictNamespaces=yes"
    yield "RestrictRealtime=yes"
    yield "RestrictSUIDSGID=yes"
    yield "LockPersonality=yes"
    yield "SystemCallArchitectures=native"
    yield "CacheDirectory=llmrun"
    yield "CacheDirectoryMode=0700"
    yield "# here `llmrun ps` finds the server, and others that are started by hand, which outlive this one"
    yield "RuntimeDirectory=llmrun"
    yield "RuntimeDirectoryMode=0700"
    yield "RuntimeDirectoryPreserve=yes"
    for folder in unit.writable:
        yield f"ReadWritePaths={systemd_word('-' + folder)}"
