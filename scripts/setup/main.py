"""The set-up, in order: look, make the environment, build the engine, install, check, stamp."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from . import engine, machine
from .commands import run_pip
from .environment import Layout, locked, make_environment, read_python_version
from .failure import Failure, explain_os_error
from .progress import say
from .stamp import ENGINE, Project, Stamp, Work, compare, list_packages, read_project, read_stamp, write_stamp

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Make `.venv` whole; returns the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        set_up(Layout(ROOT), options.extra, options.rebuild)
    except Failure as failure:
        say(failure.text())
        return 1
    except OSError as error:
        say(explain_os_error(error, str(ROOT)).text())
        return 1
    except KeyboardInterrupt:
        say("\nstopped; the next run goes on from here")
        return INTERRUPTED
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of bootstrap.py."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Make .venv whole; says nothing where it is.")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help="an extra of pyproject.toml")
    parser.add_argument("--rebuild", action="store_true", help="build the engine anew, as for a new GPU")
    return parser.parse_args(arguments)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A request to end is a Ctrl-C: compilers are ended, nothing half-made counts as good."""
    raise KeyboardInterrupt


def set_up(layout: Layout, extras: Sequence[str], rebuild: bool) -> None:
    """Do what is missing, nothing else; raises Failure."""
    project = read_project(layout.root / "pyproject.toml")
    if unknown := [name for name in extras if name not in project.extras]:
        raise Failure(f"pyproject.toml has no extra {unknown[0]}: there are {', '.join(project.extras)}")
    if not rebuild and see_work(layout, project, extras) == Work():
        return
    with locked(layout):
        work = see_work(layout, project, extras)  # another set-up may have done it
        if work.everything:
            make_everything(layout, project, extras, rebuild)
            return
        if work.engine or rebuild:
            replace_engine(layout, project)
        if work.extras:
            add_extras(layout, project, work.extras)


def see_work(layout: Layout, project: Project, extras: Sequence[str]) -> Work:
    """Compare the stamp with the environment as it is."""
    stamp = read_stamp(layout.stamp)
    return compare(stamp, look(layout, stamp) if stamp else None, project, extras, engine.read_user_arguments())


def look(layout: Layout, stamp: Stamp) -> Stamp | None:
    """The stamp as today's environment would give it; None where the environment's Python does not run."""
    python = read_python_version(layout.python)
    if python is None:
        return None
    return replace(stamp, python=python, root=str(layout.root), packages=list_packages(layout.site(python)))


def make_everything(layout: Layout, project: Project, extras: Sequence[str], rebuild: bool) -> None:
    """Make the environment from nothing but, where it is there, the engine's wheel."""
    machine.check_python_modules()
    machine.check_space(layout.folder, machine.SPACE_TO_INSTALL)
    wheel = None if rebuild else engine.find_engine(layout.engine, project.engine)
    if wheel is None:
        engine.check_before_build(layout.engine)
    before = read_stamp(layout.stamp)
    chosen = sorted({*extras, *(name for name in (before.extras if before else {}) if name in project.extras)})
    layout.stamp.unlink(missing_ok=True)
    make_environment(layout)
    wheel = wheel or engine.build_engine(layout.python, layout.engine, project.engine)
    say("installing llmrun and what it needs" + (f" ({', '.join(chosen)})" if chosen else ""))
    itself = f"{layout.root}[{','.join(chosen)}]" if chosen else str(layout.root)
    install(layout, [str(layout.engine / wheel.wheel), "--editable", itself])
    finish(layout, project, ensure_rpc(layout, project, wheel), chosen)


def replace_engine(layout: Layout, project: Project) -> None:
    """Build another engine; the environment stays as it is until that went well."""
    engine.check_before_build(layout.engine)
    stamp = read_stamp(layout.stamp)
    built = engine.build_engine(layout.python, layout.engine, project.engine)
    layout.stamp.unlink(missing_ok=True)
    install_engine(layout, built)
    finish(layout, project, ensure_rpc(layout, project, built), sorted(stamp.extras if stamp else ()))


def add_extras(layout: Layout, project: Project, extras: Sequence[str]) -> None:
    """Install extras into a whole environment; a failed download leaves it as whole as it was."""
    stamp = read_stamp(layout.stamp)
    assert stamp is not None  # a whole environment has one
    site = layout.site(stamp.python)
    before = sorted(site.glob("*.dist-info"))
    layout.stamp.unlink()
    say(f"installing what is missing: {', '.join(extras)}")
    try:
        install(layout, [*project.dependencies, *(line for name in extras for line in project.extras[name])])
    except Failure:
        if sorted(site.glob("*.dist-info")) == before:
            write_stamp(layout.stamp, stamp)
        raise
    hashes = {**stamp.extras, **{name: project.hash_extra(name) for name in extras}}
    write_stamp(layout.stamp, replace(stamp, extras=hashes, packages=list_packages(site)))


def ensure_rpc(layout: Layout, project: Project, built: engine.Engine) -> engine.Engine:
    """The engine that is installed, with RPC in its backend registry; it is built once more where RPC is absent."""
    if engine.has_rpc(layout.python) or not machine.wants_rpc(built.arguments):
        return built
    say("the engine has no RPC backend although it was asked for: building it once more")
    engine.check_before_build(layout.engine)
    again = engine.build_engine(layout.python, layout.engine, project.engine)
    install_engine(layout, again)
    if not engine.has_rpc(layout.python):
        log = layout.engine / "build.log"
        raise Failure(f"the engine was built twice with {again.arguments} and has no RPC backend (log: {log})")
    return again


def install_engine(layout: Layout, built: engine.Engine) -> None:
    """Put a wheel in the place of one of the same version."""
    install(layout, ["--force-reinstall", "--no-deps", str(layout.engine / built.wheel)])


def install(layout: Layout, words: Sequence[str]) -> None:
    """`pip install` into the environment; the engine is never compiled by the way, without our settings."""
    log = engine.new_log(layout.engine, "install.log")
    run_pip(layout.python, ["install", "-v", "--only-binary", ENGINE, *words], log, "the packages do not install")


def finish(layout: Layout, project: Project, built: engine.Engine, extras: Sequence[str]) -> None:
    """Write the stamp: from here on the environment counts as whole."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    version = read_python_version(layout.python) or python
    hashes = {name: project.hash_extra(name) for name in extras}
    packages = list_packages(layout.site(version))
    arguments = (built.user_arguments, built.arguments)
    write_stamp(
        layout.stamp,
        Stamp(version, str(layout.root), project.base, project.engine, *arguments, hashes, packages),
    )
