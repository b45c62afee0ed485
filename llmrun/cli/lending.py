"""The command `lend`: this machine's devices for models of other machines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from llmrun.cli.lend_options import LendOptions
from llmrun.console import Console
from llmrun.errors import EngineError, UsageError
from llmrun.folders import tensors_folder
from llmrun.hardware.device_wish import MIN_LIMIT
from llmrun.hardware.threads import count_threads
from llmrun.lending.address import Reach, check_reach, listen, resolve
from llmrun.lending.cache import TensorCache
from llmrun.lending.device_server import Lending
from llmrun.lending.endpoint import Desk, make_endpoint
from llmrun.lending.key import read_key
from llmrun.lending.lender import Lender, Listeners
from llmrun.lending.status import status_port
from llmrun.lending.telling import Place, Terms, named, opening_lines, warning_lines
from llmrun.server.reach import read_own_addresses, read_own_names
from llmrun.server.serving import Life, serve
from llmrun.units import format_bytes, parse_bytes

_PATIENCE = 1.0  # seconds: nothing here is worth waiting for


@dataclass(frozen=True, slots=True)
class LendWish:
    """Everything the command line said."""

    options: LendOptions
    json: bool
    quiet: bool
    verbose: bool


class _End:
    """Why and how the command ends before anybody typed Ctrl-C."""

    def __init__(self) -> None:
        self.error: EngineError | None = None
        self.now: Callable[[], object] = lambda: None

    def fail(self, error: EngineError) -> None:
        """End with an error; called in another thread."""
        self.error = error
        self.now()


def run_lend(wish: LendWish) -> None:
    """Lend until Ctrl-C; raises UsageError for what cannot be lent, or not there, EngineError where it ended itself."""
    options, console = wish.options, Console(quiet=wish.quiet, verbose=wish.verbose)
    key = None if options.key_file is None else read_key(options.key_file)
    memory = _limit(options.memory)
    address = resolve(options.host)
    reach = check_reach(options.host, address, trusted=options.i_trust_this_network)
    port, listener = listen(address, options.port)
    with listener:
        place = Place(address, port, reach, read_own_addresses(address))
        threads = options.threads or count_threads()
        devices = None if options.device is None else tuple(options.device)
        cache = _open_cache(console) if keeps_tensors(options.cache, reach) else None
        lending = Lending(address, port, devices, memory, threads, None if cache is None else str(cache.path))
        end = _End()
        listeners = Listeners(console.say, lambda line: console.log(f"engine: {line}"), end.fail)
        with closing(Lender(lending, cache, listeners)) as lender:
            terms = Terms(threads, key is not None, None if cache is None else cache.size, lending.cache or "")
            front = _Front(wish, console, place, lender, key, terms)
            asyncio.run(_serve(front, listener, end))
    if end.error is not None:
        raise end.error


@dataclass(frozen=True, slots=True)
class _Front:
    wish: LendWish
    console: Console
    place: Place
    lender: Lender
    key: bytes | None
    terms: Terms


async def _serve(front: _Front, listener: socket.socket, end: _End) -> None:
    loop = asyncio.get_running_loop()

    def made(stop: Callable[[], None]) -> None:
        end.now = lambda: loop.call_soon_threadsafe(stop)
        if end.error is not None:
            stop()

    names = frozenset((front.wish.options.host.lower(), *read_own_names(), *read_own_addresses(front.place.address)))
    app = make_endpoint(Desk(front.lender.status, names, front.key))
    await serve(app, listener, Life(lambda: _begin(front), front.console.log, _PATIENCE, on_made=made))


def _begin(front: _Front) -> None:
    """Tell what is lent and how, once others can borrow."""
    status, place = front.lender.status(), front.place
    if front.wish.json:
        front.console.data(
            {
                "host": place.for_others,
                "port": place.port,
                "status_port": status_port(place.port),
                "devices": [
                    {"name": name, "id": device.id, "total": device.total, "free": device.free}
                    for name, device in zip(
                        named(status.devices, place.for_others, place.port), status.devices, strict=True
                    )
                ],
            }
        )
    for line in opening_lines(status, place, front.terms):
        front.console.say(line)
    for line in warning_lines(place):
        front.console.notice(line)


def keeps_tensors(wish: bool | None, reach: Reach) -> bool:
    """Tell whether what comes is kept: without a wish only where not just anybody can leave something. Pure."""
    return reach is not Reach.PUBLIC if wish is None else wish


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    limit = parse_bytes(text)
    if limit < MIN_LIMIT:
        raise UsageError(f"--memory {format_bytes(limit)} is too little for a model", "--memory 6GiB")
    return limit


def _open_cache(console: Console) -> TensorCache | None:
    """Return the folder for tensors, in order; None where there can be none. It is this process's until its end."""
    cache = TensorCache(tensors_folder())
    trouble = cache.open()
    if trouble is None:
        return cache
    console.notice(f"warning: tensors that come are not kept: {trouble}")
    return None
