"""How much memory a server with a plan is to be allowed, so that the same plan fits within the limit. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20
# What llmrun's planner keeps free within a limit: planning.pools, host_reserve
_LEAST_RESERVE = 64 * _MIB
_RESERVE_PART = 20  # 5 %
# The server beside its models: 46 MiB when nothing is asked (2026-11, Linux x86-64, proportional set size), bodies of
# requests of up to 8 MiB each, and the process that tries a client's grammar.
SERVER = 192 * _MIB


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bytes. models: what the plans take of the host; server: the processes beside them; reserve: what stays free."""

    models: int
    server: int
    reserve: int

    @property
    def high(self) -> int:
        """The limit the plans are made within, whole MiB: from here on the kernel takes pages back."""
        return _whole(self.models + self.server + self.reserve)

    @property
    def most(self) -> int:
        """The limit at which a process is killed, whole MiB: room above `high` for the kernel to take pages back."""
        return _whole(self.high + max(_LEAST_RESERVE, self.high // _RESERVE_PART))


def memory_limits(models: int, reserve: int | None = None, excess: int = 0) -> MemoryLimits:
    """Return the limits for models that take so many bytes of the host.

    reserve: bytes that the user wants left free, which are left free within the limit too; None is what the planner
    leaves free of a limit by itself, which is a part of it. excess: bytes by which loads were seen to exceed plans.
    """
    if reserve is not None:
        return MemoryLimits(models, SERVER, reserve)
    needed = models + SERVER + excess
    # a twentieth of the whole is a nineteenth of the rest
    return MemoryLimits(models, SERVER, max(_LEAST_RESERVE, -(-needed // (_RESERVE_PART - 1))) + excess)


def mib(size: int) -> int:
    """Return whole MiB, rounded up."""
    return -(-size // _MIB)


def _whole(size: int) -> int:
    return mib(size) * _MIB
