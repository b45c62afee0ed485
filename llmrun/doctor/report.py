"""What the doctor knows, as plain values, and without anything private: for --json, and to paste into a bug report."""

from __future__ import annotations

import dataclasses
import getpass
import json
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from llmrun.doctor.facts import Facts
from llmrun.doctor.finding import Finding, worst
from llmrun.errors import UsageError

FIRST_LINE = "llmrun doctor's report"
# Folders that are the same on every machine; of any other path only the last name is told.
_COMMON = (
    *("/usr", "/opt", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/sys", "/dev", "/proc", "/run"),
    *("/Library", "/System", "/Applications"),
)
_COMMON_WINDOWS = (r"C:\Windows", r"C:\Program Files")
_SECRETS = re.compile(
    r"\b(?:hf|api|sk|gh[pousr]|github_pat|glpat|xox[abp])[_-][\w-]{8,}"  # the usual shapes of tokens
    r"|(?<=://)[^/\s@]+@"  # a name and a password in a URL
    r"|(?i:bearer) \S+|(?i:token|password|secret|key)(?:=|: ?)\S+"
)
_UNIX_PATH = re.compile(r"(?<![\w.:/~])/(?:[\w.+@~-]+/)*[\w.+@~-]+")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s\"'<>|:*?]+\\)*[^\\\s\"'<>|:*?]+")


@dataclass(frozen=True, slots=True)
class Private:
    """What must not be told: the home directory, the user's name, the machine's."""

    home: str
    user: str
    host: str


def read_private() -> Private:
    """Return this user's."""
    try:
        home, user = str(Path.home()), getpass.getuser()
    except (RuntimeError, KeyError, OSError, ImportError):  # a user without an entry, as in some containers
        home, user = "", ""
    return Private(home, user, socket.gethostname())


def scrub(text: str, private: Private) -> str:
    """Return a text without secrets, private names and private paths."""
    text = _SECRETS.sub("SECRET", text)
    if len(private.home) > 1:
        text = text.replace(private.home, "~")
    for name, word in ((private.user, "USER"), (private.host, "HOST"), (private.host.split(".")[0], "HOST")):
        if name:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    text = _UNIX_PATH.sub(lambda match: _shorten(match[0], _COMMON, "/"), text)
    return _WINDOWS_PATH.sub(lambda match: _shorten(match[0], _COMMON_WINDOWS, "\\"), text)


def _shorten(path: str, common: Sequence[str], separator: str) -> str:
    if any(path == folder or path.startswith(folder + separator) for folder in common):
        return path
    return f"…{separator}{path.rpartition(separator)[2]}"


def scrubbed(value: object, private: Private) -> object:
    """Return plain values with every text in them scrubbed."""
    if isinstance(value, str):
        return scrub(value, private)
    if isinstance(value, Mapping):
        return {key: scrubbed(item, private) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item, private) for item in value]
    return value


def plain(value: object) -> object:
    """Return a value of ours as JSON has it: dataclasses as objects, paths as text, sets in order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def doctor_figures(facts: Facts, findings: Sequence[Finding]) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes."""
    return {
        "level": worst([finding.level for finding in findings]),
        "findings": plain(list(findings)),
        "facts": plain(facts),
    }


def report_text(facts: Facts, findings: Sequence[Finding], private: Private) -> str:
    """Return what a bug report needs: the findings, then the facts, with nothing private in it."""
    figures = scrubbed(doctor_figures(facts, findings), private)
    lines = [FIRST_LINE, f"llmrun {facts.llmrun}, Python {facts.python}, {platform.system()} {platform.release()}", ""]
    for finding in findings:
        lines += [f"{finding.level:<8} {finding.check:<10} {finding.text}"]
        lines += [f"{'':19}  {line}" for line in finding.repair]
    told = scrub("\n".join(lines), private)
    return f"{told}\n\n{json.dumps(figures, indent=1, ensure_ascii=False)}\n"


def write_report(path: Path, text: str) -> None:
    """Write a report; raises UsageError for a file that is there and is none of ours, or that cannot be written."""
    try:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(FIRST_LINE):
            raise UsageError(f"{path} is there already, and is no report of llmrun's", "choose another name")
        path.write_text(text, "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
