"""doctor.builds and what it stands on: commands for every installer, wheels, tools, and what is in the way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.doctor.builds import (
    Backend,
    build_for,
    choose_build,
    command_text,
    cuda_obstacles,
    cuda_wheels,
    definitions,
    how_to_install,
    numbers,
)
from llmrun.doctor.environment import choose_maker, parse_requirement, read_environment, required_engine
from llmrun.doctor.facts import Facts, Maker, MissingLibrary, Tool
from llmrun.doctor.libraries import parse_ldd
from llmrun.doctor.reading import is_container, read_device_files
from llmrun.doctor.toolchain import parse_os_release, parse_version, read_tools
from llmrun.hardware.gpu import Gpu, NvidiaDriver
from tests.doctor_machines import ARC, COMPILER, DRIVER_12_4, M2, RTX_4090, RX_7900, VENV, machine, nvidia_machine

CAPTURED = Path(__file__).parent / "golden" / "hardware" / "gpus"
GLSLC, HIPCC, ICPX = Tool("/usr/bin/glslc", "2023.8"), Tool("/opt/rocm/bin/hipcc", "6.2"), Tool("/i/icpx", "2024.2.1")


def made_by(maker: Maker) -> Facts:
    return nvidia_machine(environment=replace(VENV, maker=maker, prefix=Path("/home/ada/.local/pipx/venvs/llmrun")))


@pytest.mark.parametrize(
    ("maker", "start", "word"),
    [
        (
            "pip",
            "/home/ada/venv/bin/python -m pip install --force-reinstall --no-deps --no-cache-dir",
            "--config-settings",
        ),
        ("pipx", "pipx runpip llmrun install --force-reinstall --no-deps --no-cache-dir", "--config-settings"),
        (
            "uv",
            "uv pip install --python /home/ada/venv/bin/python --reinstall --no-deps --no-cache",
            "--config-setting",
        ),
    ],
)
def test_packages_are_replaced_by_whoever_installed_them(maker: Maker, start: str, word: str) -> None:
    build = build_for(made_by(maker), "Vulkan")
    assert command_text(build.command, "linux") == (
        f"{start} --no-binary=llama-cpp-python {word}=cmake.define.GGML_VULKAN=on "
        f"{word}=cmake.define.GGML_RPC=on llama-cpp-python==0.3.36"
    )
    assert build.prebuilt is not None
    assert command_text(build.prebuilt, "linux") == (
        f"{start} --only-binary=llama-cpp-python --index-url=https://abetlen.github.io/llama-cpp-python/whl/vulkan "
        "llama-cpp-python==0.3.36"
    )


@pytest.mark.parametrize(
    ("backend", "gpu", "expected"),
    [
        ("CPU", None, {"GGML_NATIVE": "on"}),
        ("CUDA", RTX_4090, {"GGML_CUDA": "on", "CMAKE_CUDA_COMPILER": "/usr/local/cuda/bin/nvcc"}),
        ("ROCm", RX_7900, {"GGML_HIP": "on", "GPU_TARGETS": "gfx1100"}),
        ("Vulkan", ARC, {"GGML_VULKAN": "on"}),
        ("MTL", M2, {"GGML_METAL": "on"}),
        ("SYCL", ARC, {"GGML_SYCL": "on", "CMAKE_C_COMPILER": "icx", "CMAKE_CXX_COMPILER": "icpx"}),
    ],
)
def test_every_build_keeps_devices_of_other_machines(
    backend: Backend, gpu: Gpu | None, expected: dict[str, str]
) -> None:
    facts = machine(*([gpu] if gpu else []))
    assert definitions(facts, backend) == expected | {"GGML_RPC": "on"}


def test_several_targets_are_one_argument_that_a_shell_takes() -> None:
    second = replace(RX_7900, pci="0000:0a:00.0", target="gfx1030")
    build = build_for(machine(RX_7900, second, tools={"c++": COMPILER, "hipcc": HIPCC}), "ROCm")
    assert "'--config-settings=cmake.define.GPU_TARGETS=gfx1030;gfx1100'" in command_text(build.command, "linux")


@pytest.mark.parametrize(
    ("gpu", "tools", "backend", "n_obstacles"),
    [
        (RTX_4090, {"c++": COMPILER, "nvcc": Tool("/n", "12.4"), "glslc": GLSLC}, "CUDA", 0),
        (RTX_4090, {"c++": COMPILER, "glslc": GLSLC}, "Vulkan", 0),
        (RTX_4090, {"c++": COMPILER}, "CUDA", 1),
        (RX_7900, {"c++": COMPILER, "hipcc": HIPCC, "glslc": GLSLC}, "ROCm", 0),
        (RX_7900, {"c++": COMPILER, "hipcc": Tool("/h", "5.7"), "glslc": GLSLC}, "Vulkan", 0),
        (RX_7900, {}, "ROCm", 2),
        (ARC, {"c++": COMPILER, "icpx": ICPX}, "SYCL", 1),
        (ARC, {"c++": COMPILER, "icpx": ICPX, "glslc": GLSLC}, "Vulkan", 0),
    ],
)
def test_what_can_be_built_here_is_preferred(
    gpu: Gpu, tools: dict[str, Tool], backend: Backend, n_obstacles: int
) -> None:
    build = choose_build(machine(gpu, nvidia=DRIVER_12_4, tools=tools), gpu)
    assert (build.backend, len(build.obstacles)) == (backend, n_obstacles)


def test_oneapi_needs_its_variables() -> None:
    tools = {"c++": COMPILER, "icpx": ICPX}
    assert build_for(machine(ARC, tools=tools), "SYCL").obstacles == (
        "oneAPI's variables are not set: source /opt/intel/oneapi/setvars.sh, and then try again",
    )
    assert build_for(machine(ARC, tools=tools, variables={"ONEAPI_ROOT": "/i"}), "SYCL").obstacles == ()


def test_a_mac_builds_for_metal_whoever_made_its_gpu() -> None:
    mac = machine(M2, system="darwin", machine="arm64", tools={"xcode-select": Tool("/usr/bin/xcode-select")})
    for gpu in (M2, Gpu("amd", "AMD Radeon Pro 5500M")):
        build = choose_build(mac, gpu)
        assert (build.backend, build.obstacles) == ("MTL", ())
        assert build.prebuilt is not None
        assert build.prebuilt[-2].endswith("/whl/metal")


@pytest.mark.parametrize(
    ("driver", "capability", "wheels"),
    [
        ("12.4", "8.9", "cu124"),
        ("12.2", "8.6", "cu122"),
        ("12.8", "12.0", "cu125"),
        ("13.0", "8.9", "cu130"),
        ("13.4", "12.1", "cu132"),
        ("13.0", "6.1", "cu125"),
        ("11.8", "8.6", "cu118"),
        ("11.8", "9.0", None),
        ("11.4", "3.7", None),
        ("12.4", "5.2", None),
        (None, "8.9", None),
        ("12.4", None, "cu124"),
    ],
)
def test_wheels_are_no_newer_than_the_driver_and_hold_code_for_the_gpu(
    driver: str | None, capability: str | None, wheels: str | None
) -> None:
    assert cuda_wheels(driver, capability) == wheels


@pytest.mark.parametrize(
    "changes", [{"python": "3.13.1"}, {"bits": 32}, {"machine": "aarch64"}, {"system": "freebsd14"}]
)
def test_there_are_no_wheels_for_other_machines(changes: dict[str, Any]) -> None:
    assert build_for(nvidia_machine(), "CUDA", RTX_4090).prebuilt is not None
    assert build_for(nvidia_machine(**changes), "CUDA", RTX_4090).prebuilt is None


TOO_NEW = (
    "the driver 550.54.14 runs CUDA up to 12.4, and this is the CUDA toolkit 13.0: "
    "update the driver, or install a toolkit 12.x"
)
NO_LONGER = "the CUDA toolkit 13.0 no longer compiles for compute capability 7.0: install a toolkit 12.x"
NOT_YET = "the CUDA toolkit 12.4 does not know compute capability 12.0 yet: install 12.8 or newer"


@pytest.mark.parametrize(
    ("toolkit", "driver", "capability", "obstacles"),
    [
        ("12.4", "12.4", "8.9", []),
        ("12.6", "12.2", "8.9", []),  # the versions of one major number are compatible
        ("13.0", "12.4", "8.9", [TOO_NEW]),
        ("13.0", "12.4", "7.0", [TOO_NEW, NO_LONGER]),
        ("13.0", "13.0", "7.0", [NO_LONGER]),
        ("12.4", "12.8", "12.0", [NOT_YET]),
        ("12.8", "12.8", "12.0", []),
        (None, "12.4", "8.9", []),
    ],
)
def test_toolkit_driver_and_gpu_must_agree(
    toolkit: str | None, driver: str, capability: str, obstacles: list[str]
) -> None:
    gpu = replace(RTX_4090, target=capability)
    facts = machine(gpu, nvidia=NvidiaDriver("550.54.14", driver), tools={"nvcc": Tool("/nvcc", toolkit)})
    assert cuda_obstacles(facts, gpu) == obstacles


def test_how_to_install_is_told_for_every_system() -> None:
    assert how_to_install("glslc", "linux", "debian") == "sudo apt install glslc libvulkan-dev spirv-headers"
    assert how_to_install("nvcc", "linux", "gentoo") == "https://developer.nvidia.com/cuda-downloads"
    assert how_to_install("c++", "linux", None) == "install g++ or clang"
    assert how_to_install("c++", "darwin", None) == "xcode-select --install"


@given(st.none() | st.text())
def test_any_version_is_two_numbers_or_none(text: str | None) -> None:
    found = numbers(text)
    assert found is None or all(isinstance(number, int) and number >= 0 for number in found)


# ---- tools, systems, environments


@pytest.mark.parametrize(
    ("tool", "file", "version"),
    [
        ("nvcc", "nvcc.13.0.txt", "13.0"),
        ("hipcc", "hipcc.6.2.txt", "6.2"),
        ("glslc", "glslc.txt", "2023.8"),
        ("icpx", "icpx.txt", "2024.2.1"),
        ("nvcc", "glslc.txt", None),
    ],
)
def test_a_tools_version_is_read(tool: str, file: str, version: str | None) -> None:
    assert parse_version(tool, (CAPTURED / file).read_text("utf-8")) == version


def test_a_tool_is_found_where_its_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "bin" / "nvcc"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.61'\n")
    tool.chmod(0o755)
    assert read_tools({"CUDA_HOME": str(tmp_path)}, "linux")["nvcc"] == Tool(str(tool), "12.8")
    assert "nvcc" not in read_tools({"CUDA_HOME": str(tmp_path)}, "darwin")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "debian"),
        ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora"),
        ("ID=cachyos\nID_LIKE=arch\n", "arch"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "suse"),
        ("ID=alpine\n", "alpine"),
        ("", None),
    ],
)
def test_a_system_belongs_to_a_family(text: str, family: str | None) -> None:
    assert parse_os_release(text) == family


@pytest.mark.parametrize(
    ("names", "pyvenv", "has_pip", "maker"),
    [
        ({"bin", "lib", "pyvenv.cfg"}, "home = /usr/bin\nversion = 3.12.3\n", True, "pip"),
        ({"pipx_metadata.json", "pyvenv.cfg"}, "home = /usr/bin\n", True, "pipx"),
        ({"pyvenv.cfg"}, "home = /usr/bin\nimplementation = CPython\nuv = 0.9.1\n", False, "uv"),
        ({"pyvenv.cfg"}, "uv = 0.9.1\n", True, "uv"),
        ({"uv-receipt.toml", "pyvenv.cfg"}, "", False, "uv"),
        ({"pyvenv.cfg"}, "home = /usr/bin\n", False, "uv"),
    ],
)
def test_who_made_an_environment_is_seen_in_it(names: set[str], pyvenv: str, has_pip: bool, maker: Maker) -> None:
    assert choose_maker(frozenset(names), pyvenv, has_pip=has_pip) == maker


def test_this_environment_is_known() -> None:
    environment = read_environment()
    assert (environment.prefix, environment.python) == (Path(sys.prefix), sys.executable)
    assert (environment.packages / "llama_cpp" / "__init__.py").is_file()


def test_the_version_llmrun_is_made_for_is_in_its_requirements() -> None:
    assert parse_requirement(["jinja2>=3", "llama-cpp-python==0.3.36"]) == "0.3.36"
    assert parse_requirement(["llama_cpp_python (==0.3.36) ; extra"]) == "0.3.36"
    assert parse_requirement(["llama-cpp-python>=0.3"]) is None
    assert required_engine() == "0.3.36"


def test_missing_libraries_are_those_the_system_should_have() -> None:
    """The engine's own are loaded before those that need them, and one is told once."""
    text = (CAPTURED / "ldd.cuda.txt").read_text("utf-8")
    assert parse_ldd(text) == tuple(
        MissingLibrary(name, "libggml-cuda.so") for name in ("libcudart.so.12", "libcublas.so.12", "libcuda.so.1")
    )
    assert parse_ldd("\tlibodd.so.1 => not found\n", "libllama.so") == (MissingLibrary("libodd.so.1", "libllama.so"),)
    assert parse_ldd("\tnot a dynamic executable\n") == ()


def test_files_of_devices_are_found_with_their_right_to_be_used(tmp_path: Path) -> None:
    for name in ("dev/dri/renderD128", "dev/kfd", "dev/nvidia0", "dev/nvidiactl", "dev/null"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files = read_device_files(tmp_path)
    assert [(file.path, file.usable) for file in files] == [
        ("/dev/dri/renderD128", True),
        ("/dev/kfd", True),
        ("/dev/nvidia0", True),
        ("/dev/nvidiactl", True),
    ]
    assert {file.group for file in files} == {(tmp_path / "dev/kfd").group()}


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_its_marks(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert is_container(tmp_path, {})
    assert not is_container(tmp_path / "elsewhere", {"HOME": "/root"})
    assert is_container(tmp_path / "elsewhere", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
