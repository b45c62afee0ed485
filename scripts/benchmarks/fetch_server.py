"""The server that `bench fetch` fetches from, in a process of its own: NAME=SIZE for each file; ends with its input.

Prints its address, the commit, and the sha256 of each file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.hub_server.content import sparse
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer

REPO_ID = "acme/big-GGUF"


def main(words: Sequence[str]) -> None:
    """Serve until nobody listens to it any more."""
    sizes = {name: int(size) for name, _, size in (word.partition("=") for word in words)}
    files = {name: sparse(b"GGUF" + name.encode(), size) for name, size in sizes.items()}
    repo = Repo(REPO_ID, files)
    with HubServer() as server:
        server.add(repo)
        print(server.url, repo.commit, *(content.sha256 for content in files.values()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
