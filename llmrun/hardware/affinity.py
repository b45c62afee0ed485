"""Where threads may run: anywhere, each on a core of its own, or spread over the machine's NUMA nodes.

Knows processors and their numbers; must not know which threads there are.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from llmrun.hardware.cores import Core, parse_cpu_list, read_allowed, read_cores, usable_cores
from llmrun.hardware.files import read_text
from llmrun.settings import AFFINITIES

# The processors of thread 0, 1 and so on, and from the first again; none is that the system places threads
Places = tuple[frozenset[int], ...]


def read_affinities(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the affinities besides "free" that threads can have here; root is where Linux's file systems begin."""
    allowed = read_allowed() or frozenset()
    return tuple(one for one in AFFINITIES if read_places(one, allowed, root))


def read_places(affinity: str, allowed: Collection[int], root: Path = Path("/")) -> Places:
    """Return where threads of an affinity run; none where it is "free", or comes to the same.

    allowed: the processors this process may use. root: as above.
    """
    if sys.platform != "linux":
        return ()
    if affinity == "cores":
        return core_places(usable_cores(read_cores(root), frozenset(allowed)))
    if affinity == "nodes":
        return node_places(parse_nodes(read_node_files(root)), allowed)
    return ()


def core_places(cores: Iterable[Core]) -> Places:
    """Return a place for each core, slow ones last: each thread waits for all others."""
    places = tuple(core.cpus for core in sorted(cores, key=lambda core: not core.performance))
    return places if len(places) > 1 else ()


def node_places(nodes: Iterable[frozenset[int]], allowed: Collection[int]) -> Places:
    """Return a place for each node with processors that may be used: set_numa_thread_affinity of ggml-cpu.c."""
    places = tuple(node.intersection(allowed) for node in nodes if node.intersection(allowed))
    return places if len(places) > 1 else ()


def read_node_files(root: Path = Path("/")) -> Mapping[str, str]:
    """Read what parse_nodes understands: the list of processors of each NUMA node, by the node's name."""
    folder = root / "sys/devices/system/node"
    return {path.parent.name: read_text(path) for path in folder.glob("node*/cpulist")}


def parse_nodes(files: Mapping[str, str]) -> tuple[frozenset[int], ...]:
    """Return the processors of each node, in the order of their numbers; nodes that only have memory are left out."""
    numbered = {int(number): text for name, text in files.items() if (number := name.removeprefix("node")).isdecimal()}
    nodes = (parse_cpu_list(numbered[number]) for number in sorted(numbered))
    return tuple(node for node in nodes if node)
