"""deployment: units and container files as text, read back by those who will read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from llmrun.deployment.limits import MemoryLimits, memory_limits, mib
from llmrun.deployment.options import Option, serve_words, with_value, without
from llmrun.deployment.package import requirement_of
from llmrun.deployment.quoting import systemd_argument, systemd_word, yaml_text
from llmrun.deployment.unit import KEYS as UNIT_KEYS
from llmrun.deployment.unit import Unit, unit_text
from llmrun.errors import UsageError
from llmrun.planning.pools import host_reserve
from tests import systemd
from tests.nasty import NASTY, TEXT

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
