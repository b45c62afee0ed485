"""Serves the fake Hub until Ctrl-C: python -m tests.hub_server [--port N] [--verbose]."""

from __future__ import annotations

import argparse
import time

from tests.hub_server.repos import REPOS
from tests.hub_server.server import HubServer


def main() -> None:
    """Serve all repositories there are, and say how to use them."""
    parser = argparse.ArgumentParser(prog="scripts/hub", description="A Hugging Face Hub on this machine.")
    parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
    parser.add_argument("--verbose", action="store_true", help="print every request")
    wished = parser.parse_args()
    with HubServer(wished.port) as hub:
        for make in REPOS.values():
            hub.add(make())
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        print(f"try: HF_ENDPOINT={hub.url} llmrun chat guide/guide-GGUF", flush=True)
        print(f"it has {', '.join(sorted(hub.repos))}; Ctrl-C ends it", flush=True)
        _serve(hub, verbose=wished.verbose)


def _serve(hub: HubServer, *, verbose: bool) -> None:
    told = 0
    try:
        while True:
            time.sleep(0.2)
            for request in hub.log[told:] if verbose else ():
                print(request, flush=True)
            told = len(hub.log)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
