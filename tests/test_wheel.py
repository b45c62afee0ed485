"""The archives, as pip gives them to a user: built, compared with the checkout, installed and asked something."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from llmrun import __version__
from llmrun.server.page import ASSETS
from scripts.release import ENGINE, build, run, try_wheel

ROOT = Path(__file__).parent.parent
EPOCH = 1_700_000_000  # seconds; even, as ZIP archives have times


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that was built from it."""
    return build(ROOT, tmp_path_factory.mktemp("dist"), EPOCH)


@pytest.fixture(scope="module")
def source(archives: tuple[Path, Path]) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archives[0]) as archive:
        return {member.name.partition("/")[2]: member for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def wheel(archives: tuple[Path, Path]) -> Path:
    return archives[1]


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"llmrun-{__version__}.dist-info/METADATA")


@pytest.fixture(scope="module")
def told(metadata: bytes) -> Message:
    return message_from_bytes(metadata)


def test_the_wheel_holds_the_model_and_the_licence_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {f"llmrun/models/guide-{quant}.gguf" for quant in ("F16", "Q8_0", "Q4_K_M")} <= set(names)
    assert {"llmrun/py.typed", "llmrun/catalog.json", "llmrun/models/README.md"} <= set(names)
    assert {f"llmrun/server/page/{name}" for name in ("index.html", *ASSETS)} <= set(names)
    assert {f"llmrun-{__version__}.dist-info/licenses/{path}" for path in ("LICENSE", "models/LICENSE")} <= set(names)
    assert tops == {"llmrun", f"llmrun-{__version__}.dist-info"}


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llmrun").rglob("*.py")}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")} == ours


def test_the_source_archive_holds_what_is_kept_in_git_and_nothing_else(source: dict[str, tarfile.TarInfo]) -> None:
    """So that the wheel can be built from it, as it is here, and the tests run."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout: there is nothing to compare with")
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = {name for name in kept.split("\0") if (ROOT / name).is_file()}
    assert there - set(source) == set(), "add the folder to the sdist's include in pyproject.toml"
    assert there >= set(source) - {"PKG-INFO"} - new_files()


def new_files() -> set[str]:
    """What somebody is about to commit."""
    listed = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    return set(subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"))


def test_programs_in_the_source_archive_can_be_run(source: dict[str, tarfile.TarInfo]) -> None:
    programs = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    assert len(programs) > 10
    assert [path.name for path in programs if not source[f"scripts/{path.name}"].mode & 0o111] == []


def test_nothing_in_the_archives_tells_when_and_by_whom_they_were_built(
    archives: tuple[Path, Path], source: dict[str, tarfile.TarInfo]
) -> None:
    """Times, owners and order follow from the commit, so that another build of it gives the same bytes."""
    assert {(member.mtime, member.uid, member.gid) for member in source.values()} == {(EPOCH, 0, 0)}
    assert {member.uname + member.gname for member in source.values()} == {""}
    assert int.from_bytes(archives[0].read_bytes()[4:8], "little") == EPOCH  # gzip's own time, RFC 1952
    with zipfile.ZipFile(archives[1]) as wheel:
        assert {entry.date_time for entry in wheel.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_what_the_index_is_told_is_well_formed(metadata: bytes, told: Message) -> None:
    parsed = Metadata.from_email(metadata, validate=True)
    assert (parsed.name, str(parsed.version)) == ("llmrun", __version__)
    assert (parsed.license_expression, parsed.license_files) == ("MIT", ["LICENSE", "models/LICENSE"])
    assert told["Description-Content-Type"] == "text/markdown"
    assert (parsed.description or "").startswith("# llmrun")


def test_classifiers_claim_what_was_tried(told: Message) -> None:
    classifiers = told.get_all("Classifier") or []
    assert [line for line in classifiers if line.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]
    assert "Typing :: Typed" in classifiers
    assert [line for line in classifiers if line.startswith("License")] == []  # PEP 639: beside License-Expression none


def test_the_model_has_the_licence_of_the_rest() -> None:
    assert (ROOT / "models" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_the_wheel_answers_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The engine's wheel is the one that the set-up built; everything else comes as it comes to a user."""
    program = str(try_wheel(wheel, __version__, ENGINE, tmp_path))
    assert "chat" in run([program, "--help"], tmp_path)
    assert run([program, "run", "guide", "what is a kv cache"], tmp_path)
