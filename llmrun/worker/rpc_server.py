"""Lends this machine's CPU to llama.cpp on another one: `python -m llmrun.worker.rpc_server HOST:PORT [--threads N]`.

Whoever can reach the port can use it, without a password: HOST should be 127.0.0.1 or an address of a trusted network.
It says one line on stdout once it listens, and ends with its parent.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time

from llmrun.errors import LLMRunError
from llmrun.worker.devices import serve
from llmrun.worker.llama import start_backend

_POLL_SECONDS = 0.05


def main() -> int:
    """Serve until killed; 1 where that cannot begin."""
    parser = argparse.ArgumentParser(prog="llmrun.worker.rpc_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("endpoint", metavar="HOST:PORT", help="HOST in numbers, such as 127.0.0.1")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    host, _, port = options.endpoint.rpartition(":")
    try:
        _check_is_free(host, int(port))
    except (OSError, ValueError, OverflowError) as error:
        sys.stderr.write(f"no server can listen at {options.endpoint}: {error}\n")
        return 1
    talk = os.dup(1)
    os.dup2(2, 1)  # llama.cpp greets every client on stdout, which is ours
    threading.Thread(target=_announce, args=(host, int(port), talk), daemon=True).start()
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        start_backend()
        serve(options.endpoint, options.threads)
    except LLMRunError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stderr.write(f"no server can listen at {options.endpoint}\n")
    return 1


def _check_is_free(host: str, port: int) -> None:
    """Take the port for a moment: who answers on it later must be this process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _announce(host: str, port: int, talk: int) -> None:
    """Say so once the port is open: llama.cpp's own greeting comes before it has tried."""
    while True:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
            continue
        os.write(talk, f"listening at {host}:{port}\n".encode())
        return


def _watch_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
