"""A machine's profile: what `llmrun hardware --json` wrote, read back as a value. The writer is `cli.hardware`."""

from __future__ import annotations

from pathlib import Path

from llmrun.errors import NotFoundError, UsageError
from llmrun.hardware.hardware import Hardware
from llmrun.units import format_bytes

_MAX_BYTES = 1 << 20  # a machine with hundreds of cores and sixteen cards has some 10 KiB of it
_HINT = "`llmrun hardware --json > profile.json` writes one"


def read_profile(path: Path) -> Hardware:
    """Return the machine of a profile; raises UsageError for a file that is none, NotFoundError where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", _HINT) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is no profile of a machine: it has more than {format_bytes(_MAX_BYTES)}", _HINT)
    try:
        return parse_profile(data)
    except UsageError as error:
        raise UsageError(f"{path} is no profile of a machine: {error.message}", _HINT) from error


def parse_profile(data: bytes) -> Hardware:
    """Understand the JSON of a profile; raises UsageError, which says what is wrong with it.

    It may be UTF-16: so do some shells of Windows write what a program prints. What we do not know in it is left out.
    """
    import msgspec

    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        found = msgspec.json.decode(text, type=Hardware)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UsageError(str(error)) from error
    trouble = _find_trouble(found)
    if trouble is not None:
        raise UsageError(trouble)
    return found


def _find_trouble(found: Hardware) -> str | None:
    """Return what no machine can have, None where all may be true."""
    memory, threads = found.host.memory, found.host.threads
    if memory.total <= 0 or not 0 <= memory.available <= memory.total:
        return f"of {memory.total} bytes of RAM, {memory.available} are available"
    if (memory.limit is not None and memory.limit <= 0) or memory.outside < 0:
        return f"its limit is {memory.limit} bytes, with {memory.outside} outside of it"
    if threads.decode < 1 or threads.batch < 1:
        return f"it has {threads.decode} threads, and {threads.batch} to read prompts"
    ids = [device.id for device in found.devices]
    if len(set(ids)) < len(ids):
        return f"two of its devices have one name: {', '.join(ids)}"
    for device in found.devices:
        total, free = device.total, device.free
        if (total is not None and total < 0) or (free is not None and free < 0):
            return f"{device.id} has {total} bytes, {free} of them free"
    return None
