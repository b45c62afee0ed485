"""A file by which docker and podman build an image that serves as a command line said. Pure.

Sources: the Dockerfile reference; llama-cpp-python 0.3.36, README, "Installation"; llama.cpp 0c1e57098,
ggml/CMakeLists.txt: INS_ENB.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from llmrun.deployment.container import CACHE, KEYS, OWN_KEYS, Container, base_of
from llmrun.deployment.limits import mib
from llmrun.deployment.unit import stop_seconds

_FOLDER = "/opt/llmrun"


def containerfile_text(container: Container) -> str:
    """Return the file's text; raises UsageError for a backend of which there is no image."""
    sections = (_head(container), _builder(container), _image(container), _start(container))
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def health_command(port: int) -> tuple[str, ...]:
    """Return what tells whether the server is well, with what is in the image: it has no curl."""
    script = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health', timeout=4)"
    return ("python3", "-c", script)


def _head(container: Container) -> Iterator[str]:
    keys = container.keys
    yield "# Written by `llmrun serve --emit containerfile`. To build and to run it (podman takes the same):"
    if container.wheel:
        yield f"#   (with {container.requirement} beside this file)"
    yield "#   docker build -t llmrun -f Containerfile ."
    yield from _run_lines(container)
    yield f"# {mib(container.limits.most):,} MiB is {_memory_note(container)}."
    if keys is not None:
        yield f"# {keys} has the API keys, one a line as `name: key`. Its mode is 600, and its owner"
        yield f"# user {container.user}, as whom the server runs. With rootless podman: --userns keep-id."


def _memory_note(container: Container) -> str:
    limits = container.limits
    return (
        f"what the plan takes of RAM ({mib(limits.models):,} MiB), the server ({mib(limits.server):,}),"
        f" the plan's reserve ({mib(limits.reserve):,})\n# and 5 % above them"
    )


def _run_lines(container: Container) -> Iterator[str]:
    yield "#   docker run --init --rm \\"
    for line in _run_options(container):
        yield f"#     {shlex.join(line)} \\"
    if container.keys == OWN_KEYS:
        yield f'#     --mount type=bind,source="$PWD/{OWN_KEYS}",target={KEYS},readonly \\'
    yield "#     llmrun"


def _run_options(container: Container) -> Iterator[tuple[str, ...]]:
    most = f"{mib(container.limits.most)}m"
    yield ("--memory", most, "--memory-swap", most, "--stop-timeout", str(stop_seconds(container.patience)))
    yield ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")  # noqa: S108
    yield ("-v", f"llmrun-cache:{CACHE}")
    for outside, inside in container.files.items():
        yield ("--mount", _mount(outside, inside))
    if container.keys not in (None, OWN_KEYS):
        yield ("--mount", _mount(str(container.keys), KEYS))
    if container.mlock:
        yield ("--ulimit", "memlock=-1")
    if container.backend == "CUDA":
        yield ("--gpus", "all")
    for device in gpu_devices(container):
        yield ("--device", device)
    for group in container.groups:
        yield ("--group-add", str(group))
    yield ("-p", f"{container.publish}:{container.port}:{container.port}")


def _mount(outside: str, inside: str) -> str:
    """Return a value of --mount, which is read as a line of CSV, so that a path may have any character in it."""
    fields = ("type=bind", f"source={outside}", f"target={inside}", "readonly")
    return ",".join(f'"{field.replace(chr(34), chr(34) * 2)}"' if set(field) & set(',"') else field for field in fields)


def gpu_devices(container: Container) -> tuple[str, ...]:
    """Return the device files through which a backend reaches its GPU; NVIDIA's come another way."""
    return {"ROCm": ("/dev/kfd", "/dev/dri"), "Vulkan": ("/dev/dri",)}.get(container.backend, ())


def _builder(container: Container) -> Iterator[str]:
    base = base_of(container)
    yield f"FROM {base.builder} AS builder"
    yield from _install(base.build_packages)
    yield f"RUN python3 -m venv {_FOLDER}"
    yield "# OFF runs on every x86-64 with AVX2 and FMA, or every ARMv8. --build-arg GGML_NATIVE=ON is faster, and for"
    yield "# processors that can do all that the building one can: on any other the engine dies of SIGILL."
    yield "ARG GGML_NATIVE=OFF"
    definitions = {"GGML_NATIVE": "${GGML_NATIVE}", "GGML_RPC": "ON", **base.definitions}
    arguments = " ".join(f"-D{name}={value}" for name, value in definitions.items())
    yield f'RUN CMAKE_ARGS="{arguments}" \\'
    engine = f"--no-binary llama-cpp-python llama-cpp-python=={container.engine}"
    yield f"    {_FOLDER}/bin/pip install --no-cache-dir {engine}"
    if container.wheel:
        yield f"COPY {json.dumps([container.requirement, '/tmp/'])}"  # noqa: S108
        yield f"RUN {_FOLDER}/bin/pip install --no-cache-dir {shlex.quote('/tmp/' + container.requirement)}"  # noqa: S108
    else:
        yield f"RUN {_FOLDER}/bin/pip install --no-cache-dir {shlex.quote(container.requirement)}"


def _image(container: Container) -> Iterator[str]:
    base = base_of(container)
    yield f"FROM {base.runtime}"
    yield from _install(base.run_packages)
    yield f"COPY --from=builder {_FOLDER} {_FOLDER}"
    yield "# the server's user: the file with the keys must be his"
    yield f"ARG UID={container.user}"
    yield "RUN useradd --create-home --non-unique --uid ${UID} llmrun \\"
    yield f"    && install -d -o ${{UID}} -m 700 {CACHE}"
    yield f"ENV PATH={_FOLDER}/bin:$PATH PYTHONUNBUFFERED=1 HOME=/home/llmrun"
    yield "USER ${UID}"
    yield "# models that are fetched, and what llmrun learnt of the machine"
    yield f"VOLUME {json.dumps([CACHE])}"


def _install(packages: tuple[str, ...]) -> tuple[str, ...]:
    return (
        "RUN apt-get update \\",
        f"    && apt-get install -y --no-install-recommends {' '.join(packages)} \\",
        "    && rm -rf /var/lib/apt/lists/*",
    )


def _start(container: Container) -> Iterator[str]:
    yield f"EXPOSE {container.port}"
    yield "STOPSIGNAL SIGTERM"
    yield "# it answers once the first model is loaded, which may have to be fetched before"
    yield "HEALTHCHECK --interval=30s --timeout=5s --start-period=1h --retries=3 \\"
    yield f"    CMD {json.dumps(health_command(container.port))}"
    yield 'ENTRYPOINT ["llmrun"]'
    yield f"CMD {json.dumps(container.arguments)}"
