"""A Hugging Face Hub on this machine, which serves small models that answer and headers of large ones."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

from tests.hub_server.fault import Fault
from tests.hub_server.repos import RENAMED, REPOS
from tests.hub_server.request import Request
from tests.hub_server.server import HubServer

_EPILOG = """
faults: what goes wrong with the next requests for a file's bytes, as NAME=VALUE, several with commas between:
  --fault cut=1000000            the connection ends after so many bytes
  --fault status=503,times=3     the next three requests are refused
  --fault on=hub,method=HEAD,path=Q4_K_M,hang=1
All names, and what they do, stand in tests/hub_server/fault.py.
"""


def main() -> None:
    """Serve all repositories there are until Ctrl-C, and say how to use them."""
    wished = _parser().parse_args()
    with served(wished.port, wished.fault, verbose=wished.verbose) as hub, contextlib.suppress(KeyboardInterrupt):
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        print(f"try: HF_ENDPOINT={hub.url} llmrun chat guide/guide-GGUF", flush=True)
        print(f"it has {', '.join(sorted(hub.repos))}; Ctrl-C ends it", flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def served(port: int, faults: list[Fault], *, verbose: bool) -> Iterator[HubServer]:
    """Give a Hub with all repositories there are."""
    with HubServer(port, on_answer=_print_request if verbose else _say_nothing) as hub:
        for make in REPOS.values():
            hub.add(make())
        for old, new in RENAMED.items():
            hub.renamed[old] = new
        hub.faults.extend(faults)
        yield hub


def _print_request(request: Request) -> None:
    print(request, flush=True)


def _say_nothing(_: Request) -> None: ...


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/hub", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    parser.add_argument("--verbose", action="store_true", help="print every request")
    parser.add_argument("--fault", type=parse_fault, action="append", default=[], help="what goes wrong, see below")
    return parser


def parse_fault(text: str) -> Fault:
    """Return the fault that is meant by "cut=1000000,times=2"; ArgumentTypeError where there is none such."""
    given: dict[str, Any] = {"on": "cdn"}
    defaults = {field.name: field.default for field in dataclasses.fields(Fault)}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in defaults or name in ("body", "headers"):
            raise argparse.ArgumentTypeError(f"{name!r} is no fault; there are {', '.join(sorted(defaults))}")
        given[name] = value if isinstance(defaults[name], str) or name == "on" else _number(name, value)
    return Fault(**given)


def _number(name: str, value: str) -> float:
    try:
        return float(value) if "." in value else int(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name} takes a number, not {value!r}") from error


if __name__ == "__main__":
    main()
