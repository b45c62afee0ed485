"""A release, all but its upload: checked, built twice, installed and asked. What is not as it must be ends it."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version

from llmrun import __version__
from scripts.setup.failure import Failure

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / ".venv" / "engine"  # where scripts/bootstrap keeps the engine's wheel
_PATIENCE = 600  # seconds for any one program but the tests
_TOLD = 20  # lines of a program that failed


def main(arguments: Sequence[str]) -> int:
    """Make the release that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/release", description="Make a release, all but its upload.")
    parser.add_argument("version", metavar="VERSION", help="as llmrun.__version__ and CHANGELOG.md have it: 1.2.0")
    parser.add_argument("--skip-tests", action="store_true", help="do not run scripts/test, which takes half an hour")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help="(default: dist)")
    options = parser.parse_args(arguments)
    try:
        archives = make_release(options.version, options.out.resolve(), tests=not options.skip_tests)
    except Failure as failure:
        print(failure.text(), file=sys.stderr)
        return 1
    print(f"\nllmrun {options.version} is ready, and nothing was uploaded:\n")
    print("\n".join(sums(archives)))
    print("\nnext:\n" + "\n".join(f"  {line}" for line in next_commands(options.version, archives)))
    return 0


def make_release(version: str, out: Path, *, tests: bool) -> tuple[Path, Path]:
    """Return the source archive and the wheel of a version; raises Failure at the first thing that is wrong."""
    check_version(version, __version__)
    check_changelog((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
    check_tree(ROOT, version)
    if tests:
        say("the tests")
        run([str(ROOT / "scripts" / "test")], ROOT, patience=None, show=True)
        check_tree(ROOT, version)
    say("the archives")
    epoch = int(run(["git", "log", "-1", "--format=%ct"], ROOT))
    archives = build(ROOT, out, epoch)
    with tempfile.TemporaryDirectory(prefix="llmrun-release-") as name:
        folder = Path(name)
        say("the same from the commit alone")
        check_same(archives, build(export(ROOT, folder / "commit"), folder / "dist", epoch))
        say("what the index would say")
        run([sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)], ROOT)
        say("the wheel in a new environment")
        try_wheel(archives[1], version, ENGINE, folder / "try")
    return archives


def check_version(version: str, ours: str) -> None:
    """Raises Failure for what is no version, or not the one the code says it is."""
    try:
        normal = str(Version(version))
    except InvalidVersion:
        raise Failure(f"{version!r} is no version", "as PEP 440 has them: 1.2.0, 1.2.0rc1") from None
    if version != normal:
        raise Failure(f"{version!r} is written {normal!r}", f"scripts/release {normal}")
    if version != ours:
        raise Failure(
            f"llmrun.__version__ is {ours}, not {version}", f'write __version__ = "{version}" in llmrun/__init__.py'
        )


def check_changelog(text: str, version: str) -> None:
    """Raises Failure where the changelog begins with another version, or without the day of it, or says nothing."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    heading, _, body = (sections[0] if sections else "").partition("\n")
    wanted = f"`## {version} (YYYY-MM-DD)`"
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading.strip()):
        found = f"its first heading is `## {heading.strip()}`" if heading else "it has no heading of a version"
        raise Failure(f"CHANGELOG.md does not begin with version {version}: {found}", f"head it {wanted}")
    if not body.strip():
        raise Failure(f"CHANGELOG.md says nothing of version {version}", f"tell below {wanted} what is new")


def check_tree(root: Path, version: str) -> None:
    """Raises Failure where the checkout is not its commit, or the version was released from another one."""
    if changed := run(["git", "status", "--porcelain"], root):
        raise Failure(f"what is here is not what is committed:\n{changed}", "commit it, or put it away: git stash -u")
    tag = f"v{version}"
    if not run(["git", "tag", "--list", tag], root):
        return
    if run(["git", "rev-parse", f"{tag}^{{commit}}"], root) != run(["git", "rev-parse", "HEAD"], root):
        raise Failure(f"the tag {tag} is at another commit", f"release the next version, or git tag --delete {tag}")


def export(root: Path, folder: Path) -> Path:
    """Write the files of the last commit, and no others, into a new folder; returns it."""
    folder.mkdir(parents=True)
    packed = folder.with_suffix(".tar")
    run(["git", "archive", "--output", str(packed), "HEAD"], root)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder


def build(root: Path, out: Path, epoch: int) -> tuple[Path, Path]:
    """Build the source archive and, from it, the wheel; every time in them is the epoch (seconds since 1970).

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    with tempfile.TemporaryDirectory(prefix="llmrun-build-") as folder:
        command = [sys.executable, "-m", "build", "--outdir", folder, str(root)]
        run(command, root, variables={"SOURCE_DATE_EPOCH": str(epoch)})
        out.mkdir(parents=True, exist_ok=True)
        made = [Path(shutil.move(path, out / path.name)) for path in map(Path, sorted(Path(folder).iterdir()))]
    source, wheel = sorted(made, key=lambda path: path.suffix == ".whl")
    return source, wheel


def check_same(archives: Sequence[Path], again: Sequence[Path]) -> None:
    """Raises Failure where a second build gave other bytes."""
    for one, other in zip(archives, again, strict=True):
        if one.read_bytes() != other.read_bytes():
            raise Failure(
                f"{one.name} built from the commit alone has other bytes than built here",
                "look for files that git ignores and that went in: git clean -xdn llmrun models scripts tests",
            )


def try_wheel(wheel: Path, version: str, engine: Path, folder: Path) -> Path:
    """Install a wheel with all it needs into a new environment and ask it; returns the program that was installed.

    engine: the folder with the engine's wheel, so that it is not compiled a second time. All else comes as it comes
    to a user. Raises Failure where something is missing, or the answers are not those of this version.
    """
    if not list(engine.glob("*.whl")):
        raise Failure(f"{engine} has no wheel of the engine", "scripts/bootstrap builds it")
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", "env"], folder)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "-q", "--only-binary", "llama-cpp-python", "--find-links", str(engine), str(wheel)], folder)
    run([*pip, "check"], folder)
    program = python.parent / "llmrun"
    if (told := run([str(program), "--version"], folder)) != f"llmrun {version}":
        raise Failure(f"the wheel of {version} says that it is {told!r}")
    if "guide" not in run([str(program), "plan", "guide"], folder):
        raise Failure("the wheel cannot plan its own model")
    return program


def sums(archives: Sequence[Path]) -> list[str]:
    """Return lines that `sha256sum --check` reads."""
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in archives]


def next_commands(version: str, archives: Sequence[Path]) -> list[str]:
    """Return what is left for a person to do, in the checkout."""
    return [
        f"git tag --annotate v{version} --message 'llmrun {version}'",
        f"git push origin v{version}",
        shlex.join([".venv/bin/twine", "upload", *(os.path.relpath(path, ROOT) for path in archives)]),
    ]


def run(
    command: Sequence[str],
    cwd: Path,
    *,
    variables: Mapping[str, str] | None = None,
    patience: float | None = _PATIENCE,
    show: bool = False,
) -> str:
    """Return what a program printed, or let it print; raises Failure with its last lines where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pipe = None if show else subprocess.PIPE
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**kept, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            check=False,
            timeout=patience,
        )
    except FileNotFoundError as error:
        raise Failure(f"there is no program {command[0]} here") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"not done after {patience:.0f} seconds: {shlex.join(command)}") from error
    if done.returncode != 0:
        said = f"{done.stdout or ''}{done.stderr or ''}".strip().splitlines()[-_TOLD:]
        raise Failure("\n".join([f"this failed with {done.returncode}: {shlex.join(command)}", *said]))
    return (done.stdout or "").strip()


def say(step: str) -> None:
    """Tell what is being done."""
    print(f"* {step}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
