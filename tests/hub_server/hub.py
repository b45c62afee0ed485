"""The Hub's own server: what models there are, what is in them, and where their files can be had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from tests.hub_server.handler import JSON, TEXT, Handler, Query
from tests.hub_server.history import History
from tests.hub_server.repo import Repo
from tests.hub_server.search import search

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs|paths-info)(?:/([^/]+)(?:/(.+))?)?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)")
_SMALL = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/()([0-9a-f]{40})/(.+)")
_LIMITS = {
    "RateLimit": '"resolvers";r=2998;t=172',
    "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
}
_WHO = {"type": "user", "name": "tester", "auth": {"type": "access_token", "accessToken": {"role": "read"}}}


class HubHandler(Handler):
    """A connection to the Hub."""

    origin = "hub"

    def route(self, path: str, query: Query) -> None:
        """Find what is asked for."""
        if self._token and self._token not in self.owner.tokens:
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self.reply(401, {"error": "Invalid username or password."}, headers)
        if path == "/api/agent-harnesses":
            return self.reply(200, {"standardEnvVars": [], "harnesses": {}})
        if path == "/api/whoami-v2":
            return self.reply(200, _WHO) if self._token else self._refuse_nobody({})
        if path == "/api/models":
            return self._paged(search(self.owner.repos.values(), query), query, query.get("limit", [""])[0])
        for pattern, answer in ((_API, self._api), (_SMALL, self._small), (_RESOLVE, self._resolve)):
            if match := pattern.fullmatch(path):
                name, what, revision, inside = (unquote(group) if group else "" for group in match.groups())
                history = self._history(name)
                return None if history is None else answer(history, what, revision or "main", inside, query)
        return self.refuse(404, "NotFound", "Sorry, we can't find the page you are looking for.")

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    @property
    def _may_have_all(self) -> bool:
        return self.owner.tokens.get(self._token, False)

    def _refuse_nobody(self, headers: Mapping[str, str]) -> None:
        message = "Invalid username or password."
        self.reply(401, {"error": message}, {**headers, "X-Error-Message": message})

    def _history(self, name: str) -> History | None:
        """Return a repository, answering where there is none for whoever asks, or where it is called otherwise."""
        if (new := self.owner.renamed.get(name)) is not None:
            address = self.path.replace(f"/{quote(name)}", f"/{quote(new)}", 1)
            self.reply(307, b"Temporary Redirect", {"Location": address}, TEXT)
            return None
        history = self.owner.histories.get(name)
        if history is not None and (not history.main.private or self._may_have_all):
            return history
        if self._token:
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._refuse_nobody({"X-Error-Code": "RepoNotFound"})
        return None

    def _at(self, history: History, revision: str) -> Repo | None:
        """Return what a repository is at a revision, answering where it has none such."""
        repo = history.find(revision)
        if repo is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def _api(self, history: History, what: str, revision: str, folder: str, query: Query) -> None:
        if what == "refs":
            return self.reply(200, history.refs())
        repo = self._at(history, revision)
        if repo is None:
            return None
        if what == "tree":
            return self._tree(repo, folder, query)
        if what == "paths-info":
            wanted = parse_qs(self.payload.decode()).get("paths", [])
            return self.reply(200, [entry for entry in repo.tree(xet=self.owner.xet) if entry["path"] in wanted])
        expand = query.get("expand")
        return self.reply(200, repo.expanded(expand) if expand else repo.info(with_blobs="blobs" in query))

    def _tree(self, repo: Repo, folder: str, query: Query) -> None:
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries = repo.tree(folder, recursive=recursive, xet=self.owner.xet)
        if folder and not entries:
            return self.refuse(404, "EntryNotFound", f'{folder} does not exist on "main"')
        return self._paged(entries, query)

    def _paged(self, entries: list[dict[str, Any]], query: Query, limit: str = "") -> None:
        """Answer with a page of a list, and the address of the next."""
        start = int(query.get("cursor", ["0"])[0])
        end = start + min(int(limit or self.owner.page_size), self.owner.page_size)
        headers = {}
        if end < len(entries):
            asked = urlencode({**query, "cursor": [end]}, doseq=True)
            headers["Link"] = f'<{self.owner.url}{self.path.partition("?")[0]}?{asked}>; rel="next"'
        self.reply(200, entries[start:end], headers)

    def _resolve(self, history: History, _: str, revision: str, path: str, query: Query) -> None:
        """Say where a file is: a large one on the other server, a small one on this."""
        repo = self._readable(history, revision, path)
        if repo is None:
            return None
        if not repo.is_lfs(path):
            address = f"/api/resolve-cache/models/{quote(repo.id)}/{repo.commit}/{quote(path)}"
            location = f"{address}?etag=%22{repo.oid(path)}%22"
            return self.reply(307, b"Temporary Redirect", {"Location": location, **_common(repo)}, TEXT)
        headers = {**self._linked(repo, path), **_common(repo)}
        if self.owner.direct:
            return self.send_content(repo.contents[path], headers)
        location = self.owner.sign(repo, path)
        return self.reply(302, f"Found. Redirecting to {location}".encode(), {"Location": location, **headers}, TEXT)

    def _readable(self, history: History, revision: str, path: str) -> Repo | None:
        """Return what a repository is at a revision, answering where whoever asks may not have the file."""
        repo = self._at(history, revision)
        if repo is None:
            return None
        if repo.gated and not self._may_have_all:
            self._refuse_gated(repo)
        elif path not in repo.contents:
            self.refuse(404, "EntryNotFound", "Entry not found", _common(repo))
        else:
            return repo
        return None

    def _refuse_gated(self, repo: Repo) -> None:
        message = f"Access to model {repo.id} is restricted"
        if self._token:
            return self.refuse(403, "GatedRepo", f"{message} and you are not in the authorized list.")
        return self.refuse(401, "GatedRepo", f"{message}. You must have access to it and be authenticated.")

    def _linked(self, repo: Repo, path: str) -> dict[str, str]:
        """What is said of a large file, on this server alone."""
        content = repo.contents[path]
        told = {
            "X-Linked-Size": str(content.size),
            "X-Linked-Etag": f'"{content.sha256}"',
            "ETag": f'"{content.sha256 if self.owner.direct else repo.oid(path)}"',
        }
        if self.owner.xet:
            told["X-Xet-Hash"] = repo.xet_hash(path)
            told["Link"] = f'<{self.owner.url}/api/models/{repo.id}/xet-read-token/{repo.commit}>; rel="xet-auth"'
        return told

    def _small(self, history: History, _: str, revision: str, path: str, query: Query) -> None:
        repo = self._readable(history, revision, path)
        if repo is not None:
            headers = {"Content-Type": TEXT, "ETag": f'"{repo.oid(path)}"', **_common(repo)}
            self.send_content(repo.contents[path], headers)

    def reply(self, status: int, body: Any, headers: Mapping[str, str] = {}, content_type: str = JSON) -> None:
        """Answer, with what the Hub adds to every answer."""
        super().reply(status, body, {"X-Request-Id": "Root=1-fake", **headers}, content_type)


def _common(repo: Repo) -> dict[str, str]:
    return {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes", **_LIMITS}
