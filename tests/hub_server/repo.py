"""A repository of the fake Hub: its files at one commit, and what its card says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from tests.hub_server.content import Content


@dataclass(frozen=True)
class Repo:
    """A repository. gated: "auto" or "manual" gives files to tokens that may have them alone.

    gguf: what the Hub tells of one of its files: total (weights), architecture, context_length, totalFileSize.
    """

    id: str
    files: Mapping[str, Content]
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    license: str | None = "apache-2.0"
    downloads: int = 1
    likes: int = 1
    gguf: Mapping[str, Any] = field(default_factory=dict)
    branches: tuple[str, ...] = ("main",)

    @cached_property
    def commit(self) -> str:
        """40 digits that follow from what is in it."""
        told = "".join(f"{path}{content.size}{content.sha256}" for path, content in sorted(self.files.items()))
        return hashlib.sha1((self.id + told).encode()).hexdigest()

    def has(self, revision: str) -> bool:
        """Whether a revision is this commit."""
        return revision in (*self.branches, self.commit)

    def is_lfs(self, path: str) -> bool:
        """Whether a file lies in the large file storage, and is known by its sha256."""
        return path.lower().rpartition("/")[2].find(".gguf") >= 0 or self.files[path].size > 10 << 20

    def oid(self, path: str) -> str:
        """What git calls a file; of a large one it is the pointer that git has."""
        content = self.files[path]
        if not self.is_lfs(path):
            return content.git_oid
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{content.sha256}\nsize {content.size}\n"
        return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode()).hexdigest()

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders as the tree API lists them."""
        prefix = f"{folder}/" if folder else ""
        inside = sorted(path for path in self.files if path.startswith(prefix))
        shown = [path for path in inside if recursive or "/" not in path[len(prefix) :]]
        folders = {name for path in inside for name in _parents(path, prefix, recursive=recursive)}
        return [*map(self._file_entry, shown), *map(_folder_entry, sorted(folders))]

    def _file_entry(self, path: str) -> dict[str, Any]:
        size = self.files[path].size
        entry = {"type": "file", "oid": self.oid(path), "size": size, "path": path}
        if self.is_lfs(path):
            entry["lfs"] = {"oid": self.files[path].sha256, "size": size, "pointerSize": 135}
        return entry

    def info(self, *, with_blobs: bool = False) -> dict[str, Any]:
        """What the model API says of it."""
        tags = ["gguf", *([f"license:{self.license}"] if self.license else []), "region:us"]
        return {
            "_id": "65f0",
            "id": self.id,
            "modelId": self.id,
            "author": self.id.partition("/")[0],
            "sha": self.commit,
            "lastModified": "2026-01-02T03:04:05.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "downloads": self.downloads,
            "likes": self.likes,
            "tags": tags,
            "siblings": [self._sibling(path, with_blobs=with_blobs) for path in sorted(self.files)],
            **({"gguf": dict(self.gguf)} if self.gguf else {}),
        }

    def _sibling(self, path: str, *, with_blobs: bool) -> dict[str, Any]:
        if not with_blobs:
            return {"rfilename": path}
        content = self.files[path]
        entry: dict[str, Any] = {"rfilename": path, "size": content.size, "blobId": self.oid(path)}
        if self.is_lfs(path):
            entry["lfs"] = {"sha256": content.sha256, "size": content.size, "pointerSize": 135}
        return entry


def _parents(path: str, prefix: str, *, recursive: bool) -> Iterator[str]:
    parts = path[len(prefix) :].split("/")[:-1]
    for depth in range(1, len(parts) + 1 if recursive else min(2, len(parts) + 1)):
        yield prefix + "/".join(parts[:depth])


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
