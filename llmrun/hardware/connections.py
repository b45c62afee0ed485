"""Who is connected to a process of ours, and who listens where we would."""

from __future__ import annotations

import contextlib


def read_clients(pid: int, port: int) -> tuple[tuple[str, int], ...]:
    """Return the addresses and ports of those whose connections to a port a process has accepted and not closed.

    That of one who has hung up is among them: the process may still be at work on what came by it.
    """
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        found = psutil.Process(pid).net_connections("tcp")
        return tuple((str(one.raddr.ip), int(one.raddr.port)) for one in found if one.raddr and one.laddr.port == port)
    return ()


def read_listener(port: int) -> str | None:
    """Return who listens at a port of this machine, as "NAME (pid N)"; None where that is not for us to know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid is not None:
                return f"{psutil.Process(one.pid).name()} (pid {one.pid})"
    return None
