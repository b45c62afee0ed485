"""Runs other programs, pip above all: output to a log file, failure to one message."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .failure import Failure, no_space

SHOWN = 15
WIDTH = 200
# These would send packages elsewhere than into `.venv`, or other packages into a build.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_REQUIRE_HASHES")
NOISE = re.compile(
    r"$|note: |hint: |warning: |╰─>|exit code: |full command: |cwd: |building wheel for |failed to build |"
    r"error: (subprocess-exited|metadata-generation|failed (building|to build))|ninja: (build stopped|warning)|"
    r"\[notice\]|│ |(×|x) (.*did not run successfully|Encountered error)|"
    r"error: command .* failed with exit|\[\d+/\d+\] ",
    re.IGNORECASE,
)
TROUBLE = re.compile(r"FAILED: |CMake Error|(fatal )?error: |.*: (fatal )?error: |.*: \*\*\* |ERROR: ")
EXCEPTION = re.compile(r"[\w.]+Error: ")
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
KILLED = re.compile(r"Killed signal terminated program|terminated by signal (9|SIGKILL)|cannot allocate memory", re.I)
TLS = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError|problem confirming the ssl certificate")
REFUSED = re.compile(r"\b40[137] (Client )?Error|HTTP error 40[137]|Credentials not correct|Proxy Authentication")
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Read timed out|ProxyError|Name or service not known|"
    r"Temporary failure in name resolution|Network is unreachable|Connection refused|Connection reset|Max retries|"
    r"nodename nor servname|connection broken|IncompleteRead|HTTP error 5\d\d|50[0234] (Server )?Error"
)
NOTHING_FOUND = re.compile(r"No matching distribution found for (\S+)")
# Only where pip gave up on a download do the lines above mean what they say: a retry may have gone well.
GAVE_UP = re.compile(
    r"No matching distribution found|Could not install packages due to an OSError|HTTP error|Client Error|Server Error|"
    r"pip\._vendor\.(urllib3|requests)\.exceptions"
)


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
) -> tuple[int, list[str]]:
    """Run a program to its end; its output goes to `log` and, line by line, to `on_line`. Returns status and lines."""
    lines: list[str] = []
    with log.open("a", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(environment),
            start_new_session=True,  # so that a stop reaches the compilers too
        )
        try:
            for line in process.stdout or ():
                file.write(line)
                lines.append(line.rstrip())
                if on_line:
                    on_line(line)
            return process.wait(), lines
        except BaseException:
            stop(process)
            raise
        finally:
            assert process.stdout  # it was asked for
            process.stdout.close()


def stop(process: subprocess.Popen[str]) -> None:
    """End a program and everything that it started."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave compilers at work
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    signal.signal(signal.SIGINT, before)


def run_pip(
    python: Path,
    words: Sequence[str],
    log: Path,
    trouble: str,
    settings: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run the environment's pip; raises Failure with the reason out of its output, or else `trouble` and the log."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(settings or {})}
    status, lines = run([str(python), "-m", "pip", *words], log, environment, on_line)
    if status != 0:
        raise explain_pip(lines, str(log), read_index_setting(python), trouble)


def explain_pip(lines: Sequence[str], log: str, index: str, trouble: str) -> Failure:
    """The failure behind pip's output: disk, memory, index, or else the first error in it."""
    text = "\n".join(lines)
    if NO_SPACE.search(text):
        return no_space(str(Path(log).parent))
    if KILLED.search(text):
        hint = "`CMAKE_BUILD_PARALLEL_LEVEL=1 scripts/chat` builds with less memory"
        return Failure(f"the memory did not suffice for the compiler (log: {log})", hint)
    if GAVE_UP.search(text):
        return explain_index(text, log, index)
    shown = "\n".join(f"  {line[:WIDTH]}" for line in select_meaningful(lines))
    return Failure(f"{trouble}; the whole log is {log}\n{shown}")


def explain_index(text: str, log: str, index: str) -> Failure:
    """The failure of a download: the index, or the way to it."""
    hint = f"check the network and the setting of {index}; log: {log}"
    if TLS.search(text):
        return Failure(f"the package index is not trusted: its TLS certificate does not verify ({index})", hint)
    if REFUSED.search(text):
        return Failure(f"the package index refuses this user ({index})", hint)
    if UNREACHABLE.search(text):
        return Failure(f"the package index cannot be reached ({index})", hint)
    if match := NOTHING_FOUND.search(text):
        if "(from versions: none)" in text:
            return Failure(f"the package index cannot be reached or has no {match[1]} ({index})", hint)
        return Failure(f"the package index has no {match[1]} for this Python ({index})", f"log: {log}")
    return Failure(f"a download from the package index failed ({index})", hint)


def select_meaningful(lines: Sequence[str]) -> list[str]:
    """Fifteen lines that tell most: from a compiler's first error on, or Python's last one, or else the last ones."""
    said = [line.strip() for line in lines if not NOISE.match(line.strip())]
    first = next((number for number, line in enumerate(said) if TROUBLE.match(line)), None)
    if first is None:
        first = max((number for number, line in enumerate(said) if EXCEPTION.match(line)), default=None)
    return said[-SHOWN:] if first is None else said[first : first + SHOWN]


def read_index_setting(python: Path) -> str:
    """Where pip was told to look, by the setting's name and host: never with user, password or path."""
    if os.environ.get("PIP_NO_INDEX"):
        return "PIP_NO_INDEX"
    if url := os.environ.get("PIP_INDEX_URL"):
        return f"PIP_INDEX_URL, {format_host(url)}"
    command = [str(python), "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return f"pip's global.index-url, {format_host(answer.stdout.strip())}"
    return "pip's index-url, https://pypi.org"


def format_host(url: str) -> str:
    """Scheme and host of an address."""
    try:
        parts = urllib.parse.urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "not a valid address"
