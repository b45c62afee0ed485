"""What can go wrong in the set-up, in words: one message, one hint, no traceback. Must parse on any Python 3."""

import errno
import os
import shutil
import sys

COMPILER = {
    "apt-get": "sudo apt install build-essential",
    "dnf": "sudo dnf install gcc gcc-c++",
    "pacman": "sudo pacman -S base-devel",
    "zypper": "sudo zypper install gcc gcc-c++",
    "apk": "sudo apk add build-base linux-headers",
    "xcode-select": "xcode-select --install",
}
PYTHON = {
    "apt-get": "sudo apt install python3.11 python3.11-venv",
    "dnf": "sudo dnf install python3.12",
    "pacman": "sudo pacman -S python",
    "zypper": "sudo zypper install python312",
    "apk": "sudo apk add python3",
    "brew": "brew install python@3.12",
}
VENV = {"apt-get": "sudo apt install python{version}-venv", "apk": "sudo apk add py3-pip"}
ELSEWHERE = {
    "compiler": "install GCC or Clang with C++17",
    "python": "install Python 3.11 or newer from https://www.python.org/downloads/",
    "venv": "install a Python {version} that has its ensurepip module",
}
KNOWN = {"compiler": COMPILER, "python": PYTHON, "venv": VENV}


class Failure(Exception):  # noqa: N818  the word is what the person reads
    """The set-up cannot go on: `message` says what and why, `hint` what to type next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def text(self) -> str:
        """The lines to print."""
        return f"error: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")


def install_command(what: str, tools: "frozenset[str] | None" = None) -> str:
    """What to type here for `what` ("compiler", "python", "venv"); `tools` are the package managers there are."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for tool, command in KNOWN[what].items():
        if tool in tools if tools is not None else shutil.which(tool):
            return f"`{command.format(version=version)}`, then the same command again"
    return ELSEWHERE[what].format(version=version)


def explain_os_error(error: OSError, root: str) -> Failure:
    """The failure behind an error of the file system."""
    where = error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(root)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why = os.strerror(error.errno).lower()
        hint = "copy the checkout to where you may write, or change its owner"
        return Failure(f"cannot write {where}: {why}", hint)
    return Failure(f"{where}: {error.strerror or error}")


def no_space(root: str) -> Failure:
    """The disk is full."""
    return Failure(f"no space left on the disk (or in the quota) of {root}", "the set-up needs about 2 GiB: free some")
