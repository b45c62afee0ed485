"""A Compose file for a server in a container, beside the file its image is built by. Pure.

Source: the Compose Specification, services and build.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmrun.deployment.container import CACHE, KEYS, OWN_KEYS, Container
from llmrun.deployment.containerfile import gpu_devices, health_command
from llmrun.deployment.limits import mib
from llmrun.deployment.quoting import yaml_text
from llmrun.deployment.unit import stop_seconds

_SECRET = KEYS.rsplit("/", 1)[1]


def compose_text(container: Container) -> str:
    """Return the file's text; raises UsageError for a path that cannot stand in it."""
    limits = container.limits
    lines = (
        "# Written by `llmrun serve --emit compose`. It builds from the Containerfile beside it, which",
        "# `llmrun serve --emit containerfile` writes with the same options. To start it: docker compose up -d",
        "services:",
        "  llmrun:",
        *_indented(4, _service(container)),
        f"    # the plan's RAM ({mib(limits.models):,} MiB), the server ({mib(limits.server):,}),"
        f" the plan's reserve ({mib(limits.reserve):,}), and 5 %;",
        "    # no swap: weights there would be read again for every token",
        f"    mem_limit: {mib(limits.most)}m",
        f"    memswap_limit: {mib(limits.most)}m",
        *_indented(4, _gpu(container)),
        *_secrets(container),
        "volumes:",
        "  llmrun-cache:",
    )
    return "\n".join(lines) + "\n"


def _service(container: Container) -> Iterator[str]:
    port = container.port
    yield "build:"
    yield "  context: ."
    yield "  dockerfile: Containerfile"
    yield "  args:"
    yield f'    UID: "{container.user}"'
    yield "image: llmrun"
    yield f"command: {_texts(container.arguments)}"
    yield f"ports: {_texts([f'{container.publish}:{port}:{port}'])}"
    yield "volumes:"
    yield f"  - {yaml_text(f'llmrun-cache:{CACHE}')}"
    for outside, inside in container.files.items():
        yield from ("  - type: bind", f"    source: {yaml_text(outside)}", f"    target: {yaml_text(inside)}")
        yield "    read_only: true"
    if container.keys is not None:
        yield f"secrets: [{_SECRET}]"
    yield "# an init process hands the signals on; answers may finish before it ends"
    yield "init: true"
    yield f"stop_grace_period: {stop_seconds(container.patience)}s"
    yield "restart: on-failure"
    yield "healthcheck:"
    yield f"  test: {_texts(('CMD', *health_command(port)))}"
    yield from ("  interval: 30s", "  timeout: 5s", "  retries: 3", "  start_period: 1h")
    yield from ("read_only: true", "tmpfs: [/tmp]", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]')
    if container.mlock:
        yield from ("ulimits:", "  memlock: -1")


def _gpu(container: Container) -> Iterator[str]:
    if container.backend == "CUDA":
        yield from ("deploy:", "  resources:", "    reservations:", "      devices:", "        - driver: nvidia")
        yield from ("          count: all", "          capabilities: [gpu]")
    if devices := gpu_devices(container):
        yield f"devices: {_texts(devices)}"
    if container.groups:
        yield f"group_add: {_texts(map(str, container.groups))}"


def _secrets(container: Container) -> Iterator[str]:
    if container.keys is None:
        return
    path = f"./{OWN_KEYS}" if container.keys == OWN_KEYS else container.keys
    yield "secrets:"
    yield f"  # one key a line as `name: key`; its mode is 600, and its owner the server's user {container.user}"
    yield f"  {_SECRET}:"
    yield f"    file: {yaml_text(path)}"


def _texts(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(yaml_text, texts))}]"


def _indented(width: int, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"{' ' * width}{line}"
