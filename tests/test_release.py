"""scripts/release: what must be so before anything is built, and what is left to do after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from llmrun import __version__
from scripts.release import (
    ROOT,
    build,
    check_changelog,
    check_same,
    check_tree,
    check_version,
    export,
    main,
    next_commands,
    run,
    sums,
    try_wheel,
)
from scripts.setup.failure import Failure

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "little"
version = "1.0"
"""
# A backend that needs no network, and puts the time that it was told into what it builds.
BACKEND = """
import os, pathlib
def build_sdist(folder, config_settings=None):
    import io, tarfile, gzip
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("pyproject.toml", "backend.py", "PKG-INFO"):
            data = b"Metadata-Version: 2.1\\nName: little\\nVersion: 1.0\\n"
            data = data if name == "PKG-INFO" else pathlib.Path(name).read_bytes()
            entry = tarfile.TarInfo("little-1.0/" + name)
            entry.size, entry.mtime = len(data), int(os.environ["SOURCE_DATE_EPOCH"])
            archive.addfile(entry, io.BytesIO(data))
    pathlib.Path(folder, "little-1.0.tar.gz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return "little-1.0.tar.gz"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "little-1.0-py3-none-any.whl"
    pathlib.Path(folder, name).write_text(os.environ["SOURCE_DATE_EPOCH"])
    return name
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / ".gitignore").write_text("*.log\n__pycache__/\n")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")


def test_the_version_of_the_package_is_one_that_can_be_released() -> None:
    check_version(__version__, __version__)
    assert str(Version(__version__)) == __version__


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("next", "'next' is no version"),
        ("1.2.0-rc1", "'1.2.0-rc1' is written '1.2.0rc1'"),
        ("v1.2.0", "'v1.2.0' is written '1.2.0'"),
        ("1.3.0", "llmrun.__version__ is 1.2.0, not 1.3.0"),
    ],
)
def test_another_version_than_the_codes_is_refused(version: str, told: str) -> None:
    with pytest.raises(Failure) as caught:
        check_version(version, "1.2.0")
    assert caught.value.message == told
    assert caught.value.hint


def test_a_changelog_that_tells_of_the_version_first_is_content() -> None:
    check_changelog("# Changelog\n\n## 1.2.0 (2026-12-01)\n\n- this\n\n## 1.1.0 (2026-11-01)\n\n- that\n", "1.2.0")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# Changelog\n", "it has no heading of a version"),
        ("## 1.2.0 (unreleased)\n\n- this\n", "its first heading is `## 1.2.0 (unreleased)`"),
        ("## 1.2.0\n\n- this\n", "its first heading is `## 1.2.0`"),
        ("## 1.3.0 (unreleased)\n\n## 1.2.0 (2026-12-01)\n\n- this\n", "its first heading is `## 1.3.0 (unreleased)`"),
        ("## 1x2.0 (2026-12-01)\n\n- this\n", "its first heading is `## 1x2.0 (2026-12-01)`"),
        ("## 1.2.0 (2026-12-01)\n\n## 1.1.0 (2026-11-01)\n\n- that\n", "says nothing of version 1.2.0"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused(text: str, told: str) -> None:
    with pytest.raises(Failure) as caught:
        check_changelog(text, "1.2.0")
    assert told in caught.value.message
    assert "## 1.2.0 (YYYY-MM-DD)" in caught.value.hint


def test_a_checkout_must_be_its_commit(checkout: Path) -> None:
    (checkout / "ignored.log").write_text("x")
    check_tree(checkout, "1.0")
    (checkout / "new.py").write_text("x")
    with pytest.raises(Failure, match=r"not what is committed:\n\?\? new.py"):
        check_tree(checkout, "1.0")


def test_a_version_is_one_commit(checkout: Path) -> None:
    git(checkout, "tag", "--annotate", "v1.0", "--message", "x")
    check_tree(checkout, "1.0")  # a release that was broken off after the tag
    (checkout / "new.py").write_text("x")
    commit(checkout)
    check_tree(checkout, "1.1")
    with pytest.raises(Failure, match=r"the tag v1\.0 is at another commit"):
        check_tree(checkout, "1.0")


def test_what_is_ignored_is_in_no_archive_of_the_commit(checkout: Path, tmp_path: Path) -> None:
    (checkout / "ignored.log").write_text("x")
    folder = export(checkout, tmp_path / "commit")
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "backend.py", "pyproject.toml"]


def test_archives_are_built_at_the_time_of_the_commit_and_replace_older_ones(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    (out / "little-1.0-py3-none-any.whl").write_text("older")
    source, wheel = build(checkout, out, 1_800_000_000)
    assert (source.name, wheel.name) == ("little-1.0.tar.gz", "little-1.0-py3-none-any.whl")
    assert wheel.read_text() == "1800000000"
    assert sorted(out.iterdir()) == [wheel, source]


def test_another_build_with_other_bytes_ends_the_release(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.whl", "same.whl", "other.whl"))
    one.write_bytes(b"a")
    same.write_bytes(b"a")
    other.write_bytes(b"b")
    check_same([one, one], [one, same])
    with pytest.raises(Failure, match=r"one\.whl built from the commit alone has other bytes"):
        check_same([one, one], [same, other])


def test_the_engine_is_not_compiled_for_a_trial(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="has no wheel of the engine"):
        try_wheel(tmp_path / "x.whl", "1.0", tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sums_are_those_that_sha256sum_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"abc")
    assert sums([path]) == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.whl"]


def test_uploading_is_left_to_a_person() -> None:
    assert next_commands("1.0", [ROOT / "dist" / "a.tar.gz", ROOT / "my dist" / "a.whl"]) == [
        "git tag --annotate v1.0 --message 'llmrun 1.0'",
        "git push origin v1.0",
        ".venv/bin/twine upload dist/a.tar.gz 'my dist/a.whl'",
    ]


def test_a_program_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        run([sys.executable, "-c", "print('a'); raise SystemExit('b')"], tmp_path)
    assert caught.value.message.splitlines()[0].startswith("this failed with 1: ")
    assert caught.value.message.splitlines()[1:] == ["a", "b"]
    with pytest.raises(Failure, match="there is no program no-such-program here"):
        run(["no-such-program"], tmp_path)


def test_a_release_ends_at_the_first_thing_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["99.0", "--skip-tests", "--out", str(tmp_path / "dist")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"error: llmrun.__version__ is {__version__}, not 99.0\n"
        'hint: write __version__ = "99.0" in llmrun/__init__.py\n'
    )
    assert not (tmp_path / "dist").exists()
