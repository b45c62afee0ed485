"""The Hub's own server: what models there are, what is in them, and where their files can be had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from tests.hub_server.handler import Handler
from tests.hub_server.repo import Repo

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+)(?:/(.+))?)?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", re.DOTALL)
_SMALL = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)")
_LIMITS = {
    "RateLimit": '"resolvers";r=2998;t=172',
    "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
}


class HubHandler(Handler):
    """A request to the Hub."""

    origin = "hub"

    def route(self, path: str, query: Mapping[str, str]) -> None:
        """Find what is asked for."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.owner.tokens:
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self.reply(401, {"error": "Invalid username or password."}, headers)
        if path == "/api/agent-harnesses":
            return self.reply(200, {"standardEnvVars": [], "harnesses": {}})
        if path == "/api/whoami-v2":
            return self.reply(200, {"type": "user", "name": "tester"}) if token else self._anonymous()
        if path == "/api/models":
            return self._search(query)
        if match := _API.fullmatch(path):
            return self._api(match, query, token)
        if match := _SMALL.fullmatch(path):
            return self._small(match, token)
        if match := _RESOLVE.fullmatch(path):
            return self._resolve(match, token)
        return self.refuse(404, "NotFound", "Sorry, we can't find the page you are looking for.")

    def _anonymous(self) -> None:
        self.refuse(401, "RepoNotFound", "Invalid username or password.")

    def _search(self, query: Mapping[str, str]) -> None:
        words = query.get("search", "").lower().split()
        found = [repo for repo in self.owner.repos.values() if all(word in repo.id.lower() for word in words)]
        found.sort(key=lambda repo: -repo.downloads)
        self.reply(200, [repo.info() for repo in found if not repo.private][: int(query.get("limit", "1000"))])

    def _repo(self, name: str, token: str) -> Repo | None:
        """Return a repository, answering where there is none for whoever asks."""
        repo = self.owner.repos.get(name)
        if repo is not None and not (repo.private and not token):
            return repo
        if token:
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._anonymous()
        return None

    def _api(self, match: re.Match[str], query: Mapping[str, str], token: str) -> None:
        name, what, revision, folder = match.groups()
        if (new := self.owner.renamed.get(name)) is not None:
            address = self.path.replace(f"/{name}", f"/{new}", 1)
            return self.reply(307, b"Temporary Redirect", {"Location": address}, "text/plain")
        repo = self._repo(name, token)
        if repo is None:
            return None
        if revision is not None and not repo.has(revision):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "refs":
            branches = [{"name": name, "targetCommit": repo.commit} for name in repo.branches]
            return self.reply(200, {"branches": branches, "converts": [], "tags": []})
        if what == "tree":
            return self._tree(repo, folder or "", query)
        return self.reply(200, repo.info(with_blobs="blobs" in query))

    def _tree(self, repo: Repo, folder: str, query: Mapping[str, str]) -> None:
        entries = repo.tree(folder, recursive=query.get("recursive", "").lower() == "true")
        if folder and not entries:
            return self.refuse(404, "EntryNotFound", f'{folder} does not exist on "main"')
        start = int(query.get("cursor", "0"))
        end = start + self.owner.page_size
        headers = {}
        if end < len(entries):
            address = f"{self.owner.url}{self.path.partition('?')[0]}?{urlencode({**query, 'cursor': end})}"
            headers = {"Link": f'<{address}>; rel="next"'}
        return self.reply(200, entries[start:end], headers)

    def _resolve(self, match: re.Match[str], token: str) -> None:
        name, revision, path = match.groups()
        repo = self._repo(name, token)
        if repo is None:
            return None
        if not repo.has(revision):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repo.gated and not self.owner.tokens.get(token):
            return self._gated(repo, token)
        common = {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes", **_LIMITS}
        if path not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found", common)
        headers = self._location(repo, path) | common
        lfs = repo.is_lfs(path)
        return self.reply(302 if lfs else 307, b"Redirecting", headers, "text/plain; charset=utf-8")

    def _gated(self, repo: Repo, token: str) -> None:
        message = f"Access to model {repo.id} is restricted"
        if token:
            return self.refuse(403, "GatedRepo", f"{message} and you are not in the authorized list.")
        return self.refuse(401, "GatedRepo", f"{message}. You must have access to it and be authenticated.")

    def _location(self, repo: Repo, path: str) -> dict[str, str]:
        """Where a file is: a large one on the other server, a small one on this."""
        if not repo.is_lfs(path):
            address = f"/api/resolve-cache/models/{repo.id}/{repo.commit}/{quote(path)}"
            return {"Location": f"{address}?etag=%22{repo.oid(path)}%22"}
        return {
            "Location": self.owner.signed(repo, path),
            "X-Linked-Size": str(repo.files[path].size),
            "X-Linked-Etag": f'"{repo.files[path].sha256}"',
            "ETag": f'"{repo.oid(path)}"',
        }

    def _small(self, match: re.Match[str], token: str) -> None:
        name, _, path = match.groups()
        repo = self._repo(name, token)
        if repo is None:
            return
        body = b"".join(repo.files[path].pieces(0, repo.files[path].size))
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{repo.oid(path)}"'}
        self.reply(200, body, headers, "text/plain; charset=utf-8")

    def reply(self, status: int, body: Any, headers: Mapping[str, str] = {}, content_type: str = "") -> None:
        """Answer, with what the Hub adds to every answer."""
        kind = content_type or "application/json; charset=utf-8"
        super().reply(status, body, {"X-Request-Id": "Root=1-fake", **headers}, kind)
