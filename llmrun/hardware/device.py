"""A device that layers can be given to, as a value: what the planner and the arithmetic need to know of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from llmrun.hardware.link import Link

# Backends whose devices have no memory of their own, whatever kind they call themselves: Apple's, by ggml's name.
UNIFIED_BACKENDS = frozenset({"MTL"})


@dataclass(frozen=True, slots=True)
class Lender:
    """Who lends a device, over the network.

    address: HOST:PORT of the server. host: what its machine calls itself; None where nobody told, and then what is free
    is only what ggml says. keeps: whether weights that came once are kept there, None where nobody told. backend: the
    device's driver there.
    """

    address: str
    link: Link
    host: str | None = None
    keeps: bool | None = None
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A device as ggml names it.

    id: what settings call it ("CUDA0", "rpc:127.0.0.1:50052"). backend: its driver's kind ("CUDA", "MTL", "RPC").
    total, free: bytes; None where nobody could tell. unified: its memory is the host's. lender: the other machine it is
    of, None is this one.
    """

    id: str
    backend: str
    name: str
    total: int | None
    free: int | None
    unified: bool = False
    lender: Lender | None = None

    @property
    def known_as(self) -> str:
        """What is measured of it is kept by this: through SSH, lenders that are others have one address in turn."""
        if self.lender is None or self.lender.host is None:
            return self.id
        who = repr((self.lender.host, self.lender.backend, self.name))
        return f"{self.id}-{zlib.crc32(who.encode()):08x}"  # short: it is a part of files' names
