"""The way to another machine as a value: how long an answer takes, and how many bytes a second go either way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """How far another machine is away.

    latency: seconds from a small request to its answer. upload, download: bytes a second to the other machine and from
    it. measured: False where they are only what is usual.
    """

    latency: float
    upload: float
    download: float
    measured: bool = True

    def seconds(self, sent: float, received: float, trips: float) -> float:
        """Return how long it takes to send and to receive so many bytes, and to wait for so many answers."""
        return sent / self.upload + received / self.download + trips * self.latency


# What a wired home network does: 1 Gbit/s less the heads of Ethernet, IP and TCP (1448 of 1538 bytes a frame), and a
# switch between. It stands for a link that could not be measured.
USUAL_LINK = Link(3e-4, 117e6, 117e6, measured=False)
