"""Which repositories the Hub finds, and in what order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.hub_server.handler import Query
from tests.hub_server.repo import Repo


def search(repos: Iterable[Repo], query: Query) -> list[dict[str, Any]]:
    """Return the repositories that a query is for, each as the list of models tells it."""
    order = query.get("sort", ["trendingScore"])[0]
    found = [repo for repo in repos if _is_meant(repo, query)]
    found.sort(key=lambda repo: repo.info().get(order, repo.downloads), reverse=True)
    return [_told(repo, query) for repo in found]


def _is_meant(repo: Repo, query: Query) -> bool:
    info = repo.info()
    words = " ".join(query.get("search", [])).lower().split()
    return (
        not repo.private
        and all(word in repo.id.lower() for word in words)
        and all(tag in info["tags"] for tag in query.get("filter", []))
        and query.get("author", [info["author"]])[0] == info["author"]
        and query.get("gated", [str(bool(repo.gated))])[0].lower() == str(bool(repo.gated)).lower()
    )


def _told(repo: Repo, query: Query) -> dict[str, Any]:
    wanted: Sequence[str] = query.get("expand", ())
    return repo.expanded(wanted) if wanted else repo.listed(full="full" in query)
