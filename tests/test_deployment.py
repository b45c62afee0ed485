"""deployment: units and container files as text, read back by those who will read them."""

from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import dockerfile
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from llmrun.deployment.compose import compose_text
from llmrun.deployment.container import KEYS, Container, backend_of
from llmrun.deployment.containerfile import containerfile_text
from llmrun.deployment.limits import MemoryLimits, memory_limits, mib
from llmrun.deployment.options import Option, serve_words, with_value, without
from llmrun.deployment.package import requirement_of, wheel_name
from llmrun.deployment.quoting import systemd_argument, systemd_word, yaml_text
from llmrun.deployment.unit import KEYS as UNIT_KEYS
from llmrun.deployment.unit import Unit, unit_text
from llmrun.errors import UsageError
from llmrun.planning.pools import host_reserve
from tests import systemd

MIB, GIB = 1 << 20, 1 << 30
LIMITS = MemoryLimits(4 * GIB, 192 * MIB, 256 * MIB)
UNIT = Unit(
    program=("/opt/my env/bin/llmrun",),
    arguments=("serve", "qwen3:8b", "--ctx", "8192", "--allow-host", "100% $HOME"),
    limits=LIMITS,
    patience=30.0,
    key_file=PurePosixPath("/home/anna/50% keys"),
    writable=("/home/anna/.cache/huggingface",),
    environment={"HF_HOME": "/data/a b"},
)
CONTAINER = Container(
    arguments=("serve", "guide", "--host", "0.0.0.0", "--port", "8080", "--api-key-file", KEYS),
    port=8080,
    limits=LIMITS,
    patience=30.0,
    requirement="llmrun==0.1.0",
    engine="0.3.36",
    python="3.12",
)
NASTY = (
    "a b", 'say "yes"', "it's", "100%", "%h", "%%", "$HOME", "${HOME}", "$$", "back\\slash", "\\", "", ";", "a;b",
    "#no", "tab\there", "line\nbreak", "é", "日本 語", "\x01", "\x7f", "\x85", "\ufeff", "end\\", "-x", "@y", "+z", "'",
    '"', " ", "\udcff", "🦙", "a\\x41", "*", "~", "!", "|", "&", "<>", "`id`", "(", "{a,b}", "\u2028",
)  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)


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


# ---- limits


@given(st.integers(1, 1 << 42), st.integers(0, 1 << 34))
def test_a_plan_fits_again_within_the_limits_made_for_it(models: int, excess: int) -> None:
    limits = memory_limits(models, None, excess)
    for limit in (limits.high, limits.most):
        left = limit - models - limits.server
        assert left >= host_reserve(1 << 43, limit, outside=1 << 43) + excess
        assert limit % MIB == 0
    assert limits.most > limits.high


@given(st.integers(1, 1 << 42), st.integers(0, 1 << 36))
def test_what_the_user_wants_left_free_is_left_free_within_the_limits(models: int, reserve: int) -> None:
    assert 0 <= memory_limits(models, reserve).high - models - reserve - memory_limits(models).server < MIB


def test_limits_are_no_larger_than_need_be() -> None:
    """1/19 of what is taken is 1/20 of the whole; with 5 % above it, to whole MiB."""
    limits = memory_limits(19 * GIB - 192 * MIB)
    assert (limits.high, limits.most) == (20 * GIB, 21 * GIB)
    small = memory_limits(100 * MIB)
    assert (mib(small.high), mib(small.most)) == (100 + 192 + 64, 100 + 192 + 64 + 64)


# ---- options


def test_an_option_that_is_different_elsewhere_is_there_once() -> None:
    given_ = (Option("--host", "::1"), Option("--quiet"), Option("--pin", "a"), Option("--pin", "b"))
    assert with_value(given_, "--host", "0.0.0.0")[-1] == Option("--host", "0.0.0.0")
    assert serve_words(("m",), without(given_, "--host")) == ("serve", "m", "--quiet", "--pin", "a", "--pin", "b")


@pytest.mark.parametrize(
    ("direct_url", "expected"),
    [
        (None, "llmrun==0.1.0"),
        ({"url": "file:///home/anna/llmrun", "dir_info": {"editable": True}}, None),
        ({"url": "file:///tmp/llmrun-0.1.0-py3-none-any.whl", "archive_info": {}}, None),
        ({"url": "https://me:pw@x.org/l.whl", "archive_info": {}}, "llmrun @ https://x.org/l.whl"),
        ({"url": "https://tok@x.org/l", "vcs_info": {"vcs": "git", "commit_id": "ab"}}, "llmrun @ git+https://x.org/l@ab"),
        ({"url": "ssh://git:pw@x.org/l", "vcs_info": {"vcs": "git", "commit_id": "ab"}}, "llmrun @ git+ssh://git@x.org/l@ab"),
    ],
)  # fmt: skip
def test_pip_finds_the_same_again_without_anybodys_password(direct_url: Any, expected: str | None) -> None:
    assert requirement_of("0.1.0", direct_url and json.dumps(direct_url)) == expected


# ---- quoting


@given(st.lists(TEXT, max_size=5))
@example(list(NASTY))
def test_words_are_the_same_after_systemd_read_them(texts: list[str]) -> None:
    line = " ".join(["/x", *map(systemd_argument, texts)])
    assert "\n" not in line
    assert systemd.words(line, {}) == ["/x", *texts]
    assert systemd.words(" ".join(map(systemd_word, texts))) == texts


def test_systemd_itself_reads_the_same_words(tmp_path: Path) -> None:
    """Its test mode shows control characters and letters beyond ASCII escaped in its own way: they are left out."""
    texts = [text for text in NASTY if text.isprintable() and text.isascii()]
    assert len(texts) > 25
    unit = tmp_path / "words.service"
    unit.write_text(f"[Service]\nType=oneshot\nExecStart=/bin/echo {' '.join(map(systemd_argument, texts))}\n")
    told = systemd.commands(systemd.understood(unit))
    assert told == [["/bin/echo", *(text.replace("$", "$$") for text in texts)]]


@given(TEXT)
@example("$HOME: \x85 \ufeff 🦙 \u2028 \\ \" ' # {a}")
def test_a_text_is_the_same_after_compose_read_it(text: str) -> None:
    assert yaml.safe_load(yaml_text(text)).replace("$$", "$") == text.replace("$$", "$")
    assert yaml.safe_load(f"[{yaml_text(text)}, 1]") == [text.replace("$", "$$"), 1]


# ---- systemd


def test_a_unit_is_this() -> None:
    assert systemd.settings(unit_text(UNIT)) == [
        ("Unit", "Description", "llmrun, language models for many clients"),
        ("Service", "Type", "exec"),
        ("Service", "ExecStart", '"/opt/my env/bin/llmrun" serve qwen3:8b --ctx 8192 --allow-host "100%% $$HOME"'
         " --api-key-file ${CREDENTIALS_DIRECTORY}/api-keys"),
        ("Service", "LoadCredential", "api-keys:/home/anna/50%% keys"),
        ("Service", "Environment", '"HF_HOME=/data/a b"'),
        ("Service", "Restart", "on-failure"),
        ("Service", "RestartSec", "5s"),
        ("Service", "RestartPreventExitStatus", "2 5 6"),
        ("Service", "MemoryHigh", "4544M"),
        ("Service", "MemoryMax", "4772M"),
        ("Service", "MemorySwapMax", "0"),
        ("Service", "OOMPolicy", "continue"),
        ("Service", "KillSignal", "SIGTERM"),
        ("Service", "KillMode", "mixed"),
        ("Service", "TimeoutStopSec", "45s"),
        ("Service", "NoNewPrivileges", "yes"),
        ("Service", "ProtectSystem", "strict"),
        ("Service", "ProtectHome", "read-only"),
        ("Service", "ProtectControlGroups", "yes"),
        ("Service", "ProtectKernelTunables", "yes"),
        ("Service", "PrivateTmp", "yes"),
        ("Service", "RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
        ("Service", "RestrictNamespaces", "yes"),
        ("Service", "RestrictRealtime", "yes"),
        ("Service", "RestrictSUIDSGID", "yes"),
        ("Service", "LockPersonality", "yes"),
        ("Service", "SystemCallArchitectures", "native"),
        ("Service", "CacheDirectory", "llmrun"),
        ("Service", "CacheDirectoryMode", "0700"),
        ("Service", "RuntimeDirectory", "llmrun"),
        ("Service", "RuntimeDirectoryMode", "0700"),
        ("Service", "RuntimeDirectoryPreserve", "yes"),
        ("Service", "ReadWritePaths", "-/home/anna/.cache/huggingface"),
        ("Install", "WantedBy", "default.target"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "unit",
    [
        UNIT,
        replace(UNIT, key_file=None, environment={}, writable=(), mlock=True, has_cuda=True),
        replace(
            UNIT, arguments=("serve", *NASTY), writable=tuple(f"/x/{text}" for text in NASTY if text.isprintable())
        ),
    ],
    ids=["usual", "mlock", "nasty"],
)
def test_systemd_has_nothing_against_it(unit: Unit, tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.touch(0o755)
    path = tmp_path / "llmrun.service"
    path.write_text(unit_text(replace(unit, program=(str(program),))), "utf-8")
    assert systemd.check(path, tmp_path) == ""


def test_systemd_finds_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    """The test above could fail."""
    path = tmp_path / "llmrun.service"
    path.write_text(unit_text(replace(UNIT, program=("/bin/sh",))).replace("KillMode=mixed", "KillMode=some"), "utf-8")
    assert "kill mode" in systemd.check(path, tmp_path)


def test_systemd_understands_limits_and_ends_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "llmrun.service"
    path.write_text(unit_text(replace(UNIT, program=("/bin/sh",))), "utf-8")
    told = systemd.understood(path)
    pairs = dict(line.strip().partition(": ")[::2] for line in told.splitlines())
    expected = {
        "MemoryHigh": str(LIMITS.high),
        "MemoryMax": str(LIMITS.most),
        "MemorySwapMax": "0",
        "KillMode": "mixed",
        "TimeoutStopSec": "45s",
        "OOMPolicy": "continue",
        "ReadWritePaths": "-/home/anna/.cache/huggingface",
        "ProtectSystem": "strict",
        "Environment": "HF_HOME=/data/a b",
    }
    assert {name: pairs.get(name) for name in expected} == expected


def test_a_unit_counts_out_its_limits() -> None:
    text = unit_text(UNIT)
    assert "4,096 MiB  the models" in text
    assert 4096 + 192 + 256 == 4544 == mib(LIMITS.high)
    assert "LimitMEMLOCK" not in text
    assert systemd.setting(unit_text(replace(UNIT, mlock=True)), "LimitMEMLOCK") == ["infinity"]


@pytest.mark.parametrize("path", ["/a\nb", "/end\\", "/end "])
def test_a_key_file_that_systemd_cannot_be_told_of_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be told of the path"):
        unit_text(replace(UNIT, key_file=PurePosixPath(path)))


def test_a_program_without_an_absolute_path_is_refused() -> None:
    with pytest.raises(UsageError, match="absolute"):
        unit_text(replace(UNIT, program=("llmrun",)))


def test_a_unit_without_keys_names_none() -> None:
    text = unit_text(replace(UNIT, key_file=None))
    assert "Credential" not in text
    assert UNIT_KEYS not in text


# ---- containers


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
