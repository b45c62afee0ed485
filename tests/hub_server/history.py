"""The commits of a repository, and the names some of them have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.hub_server.repo import Repo


class History:
    """A repository as it is and as it was."""

    def __init__(self) -> None:
        self._branches: dict[str, Repo] = {}
        self._tags: dict[str, Repo] = {}
        self._commits: dict[str, Repo] = {}

    @property
    def main(self) -> Repo:
        """What there is now."""
        return self._branches["main"]

    def commit(self, repo: Repo, branch: str) -> None:
        """Have a branch be this; what it was can still be had by its commit."""
        self._branches.setdefault("main", repo)
        self._branches[branch] = repo
        self._commits[repo.commit] = repo

    def tag(self, name: str) -> None:
        """Give what there is now a name that stays with it."""
        self._tags[name] = self.main

    def find(self, revision: str) -> Repo | None:
        """Return what a branch, a tag or a commit is."""
        return next((known[revision] for known in self._known() if revision in known), None)

    def rename(self, new: str) -> None:
        """Have all of it be called otherwise; commits stay what they are."""
        for known in self._known():
            for name, repo in known.items():
                known[name] = replace(repo, id=new, first_id=repo.first_id or repo.id)

    def _known(self) -> tuple[dict[str, Repo], ...]:
        return self._branches, self._tags, self._commits

    def refs(self) -> dict[str, Any]:
        """Return the names as the API lists them."""
        return {
            "branches": [_ref("heads", name, repo) for name, repo in self._branches.items()],
            "converts": [],
            "tags": [_ref("tags", name, repo) for name, repo in self._tags.items()],
            "pullRequests": [],
        }


def _ref(kind: str, name: str, repo: Repo) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": repo.commit}
