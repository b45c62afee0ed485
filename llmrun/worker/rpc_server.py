"""Lends this machine's devices to llama.cpp on another one: `python -m llmrun.worker.rpc_server HOST:PORT`.

Whoever can reach the port can use it, without a password: HOST should be 127.0.0.1 or an address of a trusted network.
It says one line on stdout once it listens, and ends with its parent. With --lender it is the one that `llmrun lend`
starts: it lends no more than it may, and answers on stdout what it is asked on stdin (lending.words).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmrun.engine.rpc_hello import RPC_VERSION
from llmrun.errors import LLMRunError, UsageError
from llmrun.lending.words import ASK_MEMORY, Listening, Memory, NoServer, Offered, encode_word
from llmrun.worker.bindings import read_version
from llmrun.worker.devices import describe, kind_of, local_devices, name_of, serve
from llmrun.worker.grant import Grant
from llmrun.worker.llama import start_backend

_POLL_SECONDS = 0.05
# Bytes of private memory that the process may take beside what it lends: graphs, a thread's stack, and a tensor on its
# way in, whole. The largest are all experts of a layer (2.0 GiB of DeepSeek V3 at Q4_K) or the output (0.8 GiB of a
# model with 152,000 tokens and 5,120 channels at Q8_0); none is larger than what is lent.
_BESIDE, _STACK = 256 << 20, 8 << 20
_TENSOR, _TENSOR_PART = 2 << 30, 4  # or this part of what is lent
# A borrower whose machine is gone holds its memory until TCP notices: seconds until it asks, between, and how often.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPALIVE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


def main() -> int:
    """Serve until killed; an error's exit code, or 1, where that cannot begin."""
    options = _options()
    talk = os.dup(1)
    os.dup2(2, 1)  # llama.cpp greets every client on stdout, which is ours

    def say(line: bytes) -> None:
        os.write(talk, line)

    try:
        _serve(options, say)
    except LLMRunError as error:
        if options.lender:
            say(encode_word(NoServer(error.message, error.hint, isinstance(error, UsageError))))
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stderr.write(f"no server can listen at {options.endpoint}\n")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llmrun.worker.rpc_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("endpoint", metavar="HOST:PORT", help="HOST in numbers, such as 127.0.0.1")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, where that is lent")
    parser.add_argument("--device", action="append", help="as ggml calls it; the CPU if none")
    parser.add_argument("--cache", help="folder for tensors that came once")
    parser.add_argument("--lender", action="store_true", help="lend by rules, and answer for it")
    parser.add_argument("--memory", type=int, help="bytes of each device to lend at most, with --lender")
    return parser.parse_args()


def _serve(options: argparse.Namespace, say: Callable[[bytes], None]) -> None:
    """Serve for ever; returns where nothing can listen at the endpoint."""
    host, _, port = options.endpoint.rpartition(":")
    try:
        _check_is_free(host, int(port))
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"no server can listen at {options.endpoint}: {error}") from error
    start_backend()
    if options.lender:
        offered = chosen_devices(options.device)
        grants = [Grant(device, options.memory) for device in offered]
        _limit_process(offered, grants, options.threads)
        greeting = encode_word(Listening(read_version(), RPC_VERSION, tuple(map(_offer, offered, grants))))
        threading.Thread(target=_answer, args=(grants, say), daemon=True).start()
    else:
        offered = chosen_devices(options.device or ["CPU"])
        greeting = f"listening at {host}:{port}\n".encode()
        threading.Thread(target=_watch_parent, daemon=True).start()
    threading.Thread(target=_announce, args=(host, int(port), lambda: say(greeting)), daemon=True).start()
    serve(options.endpoint, options.threads, offered, options.cache)


def chosen_devices(names: Sequence[str] | None) -> tuple[int, ...]:
    """Return ggml's devices of these names, or its GPUs, or else the CPU; raises UsageError for a name that is none."""
    found = {name_of(device): device for device in local_devices()}
    if names:
        for name in names:
            if name not in found:
                raise UsageError(f"this machine has no device {name!r}", f"it has: {', '.join(found)}")
        return tuple(dict.fromkeys(found[name] for name in names))
    kinds = {device: kind_of(device) for device in found.values()}
    gpus = tuple(device for device, kind in kinds.items() if kind in ("GPU", "IGPU"))
    return gpus or tuple(device for device, kind in kinds.items() if kind == "CPU")


def _offer(device: int, grant: Grant) -> Offered:
    info = describe(device)
    return Offered(info.id, info.description, info.backend, info.kind, grant.total)


def _limit_process(offered: Sequence[int], grants: Sequence[Grant], n_threads: int) -> None:
    """Let the kernel refuse what the grants do not see, such as a message that is said to be of a TiB.

    Private memory is what counts (RLIMIT_DATA): of addresses (RLIMIT_AS) every thread reserves 64 MiB, a driver all
    there are. A card's driver keeps private memory nobody can foresee, so nothing is limited where one is lent.
    """
    if sys.platform != "linux" or any(kind_of(device) != "CPU" for device in offered):
        return
    import resource

    status = Path("/proc/self/status").read_text("ascii", "replace")
    taken = next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:")), None)
    if taken is None:
        return
    lent = sum(grant.total for grant in grants)
    tensor = min(lent, max(_TENSOR, lent // _TENSOR_PART))
    limit = taken + lent + tensor + _BESIDE + n_threads * _STACK
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _check_is_free(host: str, port: int) -> None:
    """Take the port for a moment: who answers on it later must be this process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _announce(host: str, port: int, say: Callable[[], None]) -> None:
    """Say so once the port is open: llama.cpp's own greeting comes before it has tried."""
    where = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared with
    while True:
        try:
            socket.create_connection((where, port), 1).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
            continue
        _keep_alive(port)
        say()
        return


def _keep_alive(port: int) -> None:
    """Have TCP ask whether borrowers are still there: connections get it from the socket that they come in by.

    That one is ggml's own, found among this process's few open files; where it is not, the system's rules hold.
    """
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as own:
                if own.family == socket.AF_INET and own.getsockname()[1] == port:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for name, value in _KEEPALIVE.items():
                        if hasattr(socket, name):
                            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _answer(grants: Sequence[Grant], say: Callable[[bytes], None]) -> None:
    """Answer the lender's questions; end with it, and where it hears no answer or there is none."""
    try:
        for question in sys.stdin.buffer:
            free = tuple(grant.free for grant in grants) if question == ASK_MEMORY else ()
            say(encode_word(Memory(tuple(grant.held for grant in grants), free)))
    finally:  # a server that tells nothing of itself is of no use
        error = sys.exception()
        if error is not None:
            sys.stderr.write(f"no answer for the lender: {error!r}\n")
        os._exit(0 if error is None else 1)


def _watch_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
