"""Linux's control groups: those this process is in, versions 1 and 2, and what each allows. Knows no other limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmrun.hardware.files import read_text

# Version 1 says "no limit" as the largest multiple of a page: 2^63 less 4096 or 65536. No machine has so much.
_NO_LIMIT = 1 << 56

_FILES = {
    "memory": (
        "memory.max",
        "memory.high",
        "memory.current",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.memsw.usage_in_bytes",
        "memory.use_hierarchy",
        "memory.stat",
    ),
    "cpu": ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
}


@dataclass(frozen=True, slots=True)
class Mount:
    """Where control groups can be seen: the group `root` at `point`. controllers: of version 1; None is version 2."""

    controllers: frozenset[str] | None
    root: str
    point: str


@dataclass(frozen=True, slots=True)
class Group:
    """A control group by the kernel's name for it, and those of its files that could be read."""

    name: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a group's files lie."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on memory: bytes that may be used in all, and what is left of them. name: what to call it."""

    name: str
    limit: int
    available: int


def parse_membership(text: str) -> dict[str, str]:
    """Understand /proc/self/cgroup: the group by controller; "" is that of version 2.

    Names may hold colons: "…kubepods-pod1.slice:cri-containerd:0f99".
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number.isdecimal() and name.startswith("/"):
            found |= dict.fromkeys(controllers.split(","), name)
    return found


def parse_mounts(mountinfo: str) -> tuple[Mount, ...]:
    """Return the control group file systems in the text of /proc/self/mountinfo (proc(5), its fields 4, 5 and 9 on)."""
    found = []
    for line in mountinfo.splitlines():
        mount, _, system = line.partition(" - ")
        fields, (kind, _, options) = mount.split(" "), [*system.split(" "), "", "", ""][:3]
        if len(fields) > 4 and kind in ("cgroup", "cgroup2"):
            controllers = frozenset(options.split(",")) if kind == "cgroup" else None
            found.append(Mount(controllers, _unescape(fields[3]), _unescape(fields[4])))
    return tuple(found)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def find_folders(membership: Mapping[str, str], mounts: Sequence[Mount], controller: str) -> tuple[Folder, ...]:
    """Return where the groups lie that this process is in, each followed by those above it as far as they can be seen.

    A mount that does not show the process's own group (another namespace's) is taken for that group's: what it shows
    is all that can be known.
    """
    folders: dict[str, Folder] = {}
    for kind, key in ((controller, controller), (None, "")):
        name = membership.get(key)
        shown = [mount for mount in mounts if (kind in mount.controllers if mount.controllers else kind is None)]
        if name is None:
            continue
        # where a hierarchy is mounted more than once, the mount that begins higher up shows more of it
        matching = sorted((m for m in shown if _below(name, m.root) is not None), key=lambda mount: len(mount.root))
        for mount in matching or shown:
            for folder in _upward(mount, name):
                folders.setdefault(folder.path, folder)
    return tuple(folders.values())


def _upward(mount: Mount, name: str) -> Iterator[Folder]:
    below = _below(name, mount.root)
    path = PurePosixPath(mount.point, below or "")
    group = PurePosixPath(mount.root if below is None else name)
    # from the group up to the mount both paths are the same
    for folder, shown in zip((path, *path.parents), (group, *group.parents), strict=False):
        yield Folder(str(shown), str(folder))
        if folder == PurePosixPath(mount.point):
            return


def _below(name: str, root: str) -> str | None:
    """Return a group's path below the one that is mounted: "/docker/a/b" in "/docker/a" is "b"; None if it is not."""
    if root == "/":
        return None if name.startswith("/..") else name.lstrip("/")
    return name[len(root) :].lstrip("/") if name == root or name.startswith(root + "/") else None


def read_groups(controller: str, root: Path = Path("/")) -> tuple[Group, ...]:
    """Return the groups of this process for "memory" or "cpu", its own first; root is where the file systems begin."""
    process = root / "proc/self"
    membership, mounts = parse_membership(read_text(process / "cgroup")), parse_mounts(read_text(process / "mountinfo"))
    groups = []
    for folder in find_folders(membership, mounts, controller):
        place = root / folder.path.lstrip("/")
        files = {name: text for name in _FILES[controller] if (text := read_text(place / name))}
        groups.append(Group(folder.name, files))
    return tuple(group for group in groups if group.files)


def read_notes(root: Path = Path("/")) -> tuple[str, ...]:
    """Return what of this process's control groups cannot be seen."""
    process = root / "proc/self"
    membership, mounts = parse_membership(read_text(process / "cgroup")), parse_mounts(read_text(process / "mountinfo"))
    if membership and not mounts:
        return ("control groups are not mounted here: their limits on memory and processors cannot be seen",)
    return ()


def memory_bounds(groups: Iterable[Group]) -> tuple[Bound, ...]:
    """Return every limit on memory that holds in these groups, this process's own group first.

    What is left is the limit less what is used, where pages of files do not count as used, be they "active" or not:
    after one run through mmap a model's pages are active, and are given up as soon as others need them. Shared memory
    and what is locked stand in other lists of the kernel, and count.
    """
    known = tuple(groups)
    seen = [
        bound for index, group in enumerate(known) if index == 0 or _counts_below(group) for bound in _bounds(group)
    ]
    if known:  # version 1 tells the least limit of all groups above, of those too that a container cannot see
        group, stat = known[0], _parse_stat(known[0].files.get("memory.stat", ""))
        least = str(stat.get("hierarchical_memory_limit", ""))
        seen += _bound(group, f"a control group above {group.name}", least, "memory.usage_in_bytes")
    return tuple(seen)


def _counts_below(group: Group) -> bool:
    """Before Linux 5.11 a group of version 1 could be told not to count the groups in it."""
    return group.files.get("memory.use_hierarchy", "1").strip() != "0"


def _bounds(group: Group) -> Iterator[Bound]:
    for limit, usage in (
        ("memory.max", "memory.current"),
        # Beyond this one nobody is killed, but everyone in the group is slowed down until hardly anything moves, and
        # pages of files go first, so that a mapped model is read from disk again for every token: a limit all the same.
        ("memory.high", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),  # with swap, and never less than the one before
    ):
        yield from _bound(group, f"{limit} of control group {group.name}", group.files.get(limit), usage)


def _bound(group: Group, name: str, text: str | None, usage: str) -> Iterator[Bound]:
    limit = _number(text)
    if limit is None or limit >= _NO_LIMIT:
        return
    pages = _file_pages(_parse_stat(group.files.get("memory.stat", "")))
    used = max(0, (_number(group.files.get(usage)) or 0) - pages)
    yield Bound(name, limit, max(0, limit - used))


def _file_pages(stat: Mapping[str, int]) -> int:
    """Version 1 counts the groups below apart, as "total_…"; version 2 always has them in."""
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))


def _parse_stat(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _number(text: str | None) -> int | None:
    """Return a file's only number; None for "max", for "-1" and where there is no such file."""
    text = (text or "").strip()
    return int(text) if text.isdecimal() else None


def cpu_quota(groups: Iterable[Group]) -> float | None:
    """Return the processors' worth of time these groups may use, the least of their quotas; None is no limit."""
    quotas = []
    for group in groups:
        both = group.files.get("cpu.max", "").split()  # "150000 100000", "max 100000"
        quota, period = (
            both if len(both) == 2 else (group.files.get(f"cpu.cfs_{word}_us") for word in ("quota", "period"))
        )
        share, whole = _number(quota), _number(period)
        if share and whole:
            quotas.append(share / whole)
    return min(quotas, default=None)
