"""deployment: containers as files, read back by BuildKit's own parser and as YAML."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from typing import Any

import dockerfile
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from llmrun.deployment.compose import compose_text
from llmrun.deployment.container import KEYS, Container, backend_of
from llmrun.deployment.containerfile import containerfile_text
from llmrun.deployment.limits import MemoryLimits
from llmrun.deployment.package import wheel_name
from llmrun.errors import UsageError
from tests.nasty import NASTY, TEXT

MIB, GIB = 1 << 20, 1 << 30
LIMITS = MemoryLimits(4 * GIB, 192 * MIB, 256 * MIB)
CONTAINER = Container(
    arguments=("serve", "guide", "--host", "0.0.0.0", "--port", "8080", "--api-key-file", KEYS),
    port=8080,
    limits=LIMITS,
    patience=30.0,
    requirement="llmrun==0.1.0",
    engine="0.3.36",
    python="3.12",
)


def compose(container: Container) -> Any:
    return yaml.safe_load(compose_text(container))


def instructions(container: Container) -> list[tuple[str, tuple[str, ...]]]:
    """What BuildKit's own parser makes of a Containerfile."""
    return [(found.cmd, found.value) for found in dockerfile.parse_string(containerfile_text(container))]


def run_command(container: Container) -> list[str]:
    """The words of the `docker run` that a Containerfile's first lines show."""
    lines = [line.removeprefix("#").strip() for line in containerfile_text(container).splitlines()]
    start = next(at for at, line in enumerate(lines) if line.startswith("docker run"))
    found = lines[start:]
    end = next(at for at, line in enumerate(found) if not line.endswith("\\"))
    return shlex.split(" ".join(line.removesuffix("\\") for line in found[: end + 1]))


def test_a_container_file_is_this() -> None:
    found = instructions(CONTAINER)
    assert [cmd for cmd, _ in found] == [
        "FROM", "RUN", "RUN", "ARG", "RUN", "RUN",
        "FROM", "RUN", "COPY", "ARG", "RUN", "ENV", "USER", "VOLUME",
        "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    ]  # fmt: skip
    by_name = dict(found)
    assert found[0][1] == ("docker.io/library/python:3.12-slim-trixie", "AS", "builder")
    assert by_name["ENTRYPOINT"] + by_name["CMD"] == ("llmrun", *CONTAINER.arguments)
    assert by_name["USER"] == ("${UID}",)
    assert by_name["ARG"] == ("UID=10001",)
    assert by_name["EXPOSE"] == ("8080",)
    assert by_name["STOPSIGNAL"] == ("SIGTERM",)
    assert by_name["VOLUME"] == ("/home/llmrun/.cache",)
    assert found[3][1] == ("GGML_NATIVE=OFF",)
    assert found[4][1][0].split() == [
        'CMAKE_ARGS="-DGGML_NATIVE=${GGML_NATIVE}', '-DGGML_RPC=ON"',
        "/opt/llmrun/bin/pip", "install", "--no-cache-dir", "--no-binary", "llama-cpp-python",
        "llama-cpp-python==0.3.36",
    ]  # fmt: skip
    assert found[5][1] == ("/opt/llmrun/bin/pip install --no-cache-dir llmrun==0.1.0",)


def test_a_wheel_is_taken_from_beside_the_file() -> None:
    found = instructions(replace(CONTAINER, wheel=True, requirement=wheel_name("0.1.0")))
    assert ("COPY", ("llmrun-0.1.0-py3-none-any.whl", "/tmp/")) in found
    assert ("RUN", ("/opt/llmrun/bin/pip install --no-cache-dir /tmp/llmrun-0.1.0-py3-none-any.whl",)) in found


@given(st.lists(TEXT.filter(bool), min_size=1, max_size=4))
@example([text for text in NASTY if text and text != "\udcff"])
def test_arguments_are_the_same_in_both_kinds_of_file(texts: list[str]) -> None:
    container = replace(CONTAINER, arguments=("serve", *texts))
    assert dict(instructions(container))["CMD"] == ("serve", *texts)
    command = compose(container)["services"]["llmrun"]["command"]
    assert command == ["serve", *(text.replace("$", "$$") for text in texts)]


def test_a_compose_file_is_this() -> None:
    assert compose(replace(CONTAINER, user=1000, keys="/home/anna/50$ keys")) == {
        "services": {
            "llmrun": {
                "build": {"context": ".", "dockerfile": "Containerfile", "args": {"UID": "1000"}},
                "image": "llmrun",
                "command": list(CONTAINER.arguments),
                "ports": ["127.0.0.1:8080:8080"],
                "volumes": ["llmrun-cache:/home/llmrun/.cache"],
                "secrets": ["llmrun-keys"],
                "init": True,
                "stop_grace_period": "45s",
                "restart": "on-failure",
                "healthcheck": {
                    "test": ["CMD", *dict(instructions(CONTAINER))["HEALTHCHECK"][-3:]],
                    "interval": "30s",
                    "timeout": "5s",
                    "retries": 3,
                    "start_period": "1h",
                },
                "read_only": True,
                "tmpfs": ["/tmp"],
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "mem_limit": "4772m",
                "memswap_limit": "4772m",
            }
        },
        "secrets": {"llmrun-keys": {"file": "/home/anna/50$$ keys"}},
        "volumes": {"llmrun-cache": None},
    }


def test_models_of_this_machine_are_taken_in_to_be_read() -> None:
    container = replace(CONTAINER, files={'/data/a "b", $c.gguf': "/models/0/a.gguf"})
    assert compose(container)["services"]["llmrun"]["volumes"][1:] == [
        {"type": "bind", "source": '/data/a "b", $$c.gguf', "target": "/models/0/a.gguf", "read_only": True}
    ]
    assert 'type=bind,"source=/data/a ""b"", $c.gguf",target=/models/0/a.gguf,readonly' in run_command(container)


def test_without_keys_there_is_no_secret() -> None:
    container = replace(CONTAINER, keys=None)
    assert "secrets" not in compose(container)
    assert "secrets" not in compose(container)["services"]["llmrun"]
    assert "/run/secrets" not in " ".join(run_command(container))


def test_the_command_that_runs_it_has_the_same_limits() -> None:
    words = run_command(replace(CONTAINER, mlock=True))
    assert words[:2] == ["docker", "run"]
    assert words[-1] == "llmrun"
    pairs = dict(itertools.pairwise(words))
    assert pairs["--memory"] == pairs["--memory-swap"] == "4772m"
    assert pairs["--stop-timeout"] == "45"
    assert pairs["-p"] == "127.0.0.1:8080:8080"
    assert pairs["--ulimit"] == "memlock=-1"
    assert pairs["--mount"] == f"type=bind,source=$PWD/llmrun-keys,target={KEYS},readonly"


def test_nvidias_gpus_are_given_to_it() -> None:
    container = replace(CONTAINER, backend="CUDA", targets=("86", "89"))
    devices = compose(container)["services"]["llmrun"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert "--gpus all" in " ".join(run_command(container))
    found = instructions(container)
    images = [value[0] for cmd, value in found if cmd == "FROM"]
    assert images == [f"docker.io/nvidia/cuda:12.8.1-{kind}-ubuntu24.04" for kind in ("devel", "runtime")]
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=86;89 " in found[4][1][0]


@pytest.mark.parametrize(
    ("backend", "devices", "switch"),
    [("ROCm", ["/dev/kfd", "/dev/dri"], "-DGGML_HIP=ON"), ("Vulkan", ["/dev/dri"], "-DGGML_VULKAN=ON")],
)
def test_other_gpus_come_as_device_files_and_groups(backend: Any, devices: list[str], switch: str) -> None:
    container = replace(CONTAINER, backend=backend, groups=(44, 105))
    service = compose(container)["services"]["llmrun"]
    assert (service["devices"], service["group_add"]) == (devices, ["44", "105"])
    words = run_command(container)
    assert [words[at + 1] for at, word in enumerate(words) if word in ("--device", "--group-add")] == [
        *devices,
        "44",
        "105",
    ]
    assert switch in instructions(container)[4][1][0]


def test_a_backend_of_which_there_is_no_image_is_refused() -> None:
    assert backend_of(frozenset()) == backend_of(frozenset({"RPC"})) == "CPU"
    assert backend_of(frozenset({"CUDA", "RPC"})) == "CUDA"
    for others in ({"MTL"}, {"SYCL"}, {"CUDA", "Vulkan"}):
        with pytest.raises(UsageError, match="no container is known"):
            backend_of(frozenset(others))
