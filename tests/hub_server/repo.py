"""A repository of the fake Hub: its files at one commit, and what its card says."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tests.hub_server.content import Content, as_content

_LARGE = 10 << 20  # bytes; git has no file of that size
# What a list of models tells of each without being asked for more (hub.md, §1.1; HfApi.list_models with full=True)
_IN_LISTS = ("modelId", "likes", "private", "downloads", "tags", "pipeline_tag", "library_name", "createdAt")
_IN_FULL_LISTS = (*_IN_LISTS, "author", "sha", "lastModified", "gated", "siblings")


@dataclass(frozen=True)
class Repo:
    """A repository at one commit. gated: "auto" or "manual" gives files to tokens that may have them, and to no others.

    files: what is in them, by their paths, which are listed as they are, however evil.
    gguf: what the Hub tells of one of the files: total (weights), architecture, context_length, totalFileSize.
    first_id: what it was called when it was made, where it has been renamed.
    """

    id: str
    files: Mapping[str, bytes | Path | Content]
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    license: str | None = "apache-2.0"
    downloads: int = 1
    likes: int = 1
    tags: tuple[str, ...] = ()
    base_model: str | None = None
    pipeline_tag: str = "text-generation"
    gguf: Mapping[str, Any] = field(default_factory=dict)
    first_id: str | None = None

    @cached_property
    def contents(self) -> dict[str, Content]:
        """The files by their paths, in the order of the paths."""
        return {path: as_content(self.files[path]) for path in sorted(self.files)}

    @cached_property
    def commit(self) -> str:
        """40 digits that follow from what is in it."""
        told = "".join(f"{path}\0{content.size}\0{content.sha256}\n" for path, content in self.contents.items())
        return hashlib.sha1(f"{self.first_id or self.id}\n{told}".encode()).hexdigest()

    def is_lfs(self, path: str) -> bool:
        """Return whether a file lies in the large file storage, and is known by its sha256."""
        return ".gguf" in path.lower().rpartition("/")[2] or self.contents[path].size > _LARGE

    def oid(self, path: str) -> str:
        """Return what git calls a file; of a large one it is the pointer that git has."""
        content = self.contents[path]
        if not self.is_lfs(path):
            return content.git_oid
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{content.sha256}\nsize {content.size}\n"
        return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode()).hexdigest()

    def xet_hash(self, path: str) -> str:
        """Return 64 digits that are not the sha256."""
        return hashlib.sha256(f"xet {self.contents[path].sha256}".encode()).hexdigest()

    def tree(self, folder: str = "", *, recursive: bool = True, xet: bool = False) -> list[dict[str, Any]]:
        """Return files and folders as the tree API lists them."""
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in self.contents if path.startswith(prefix)]
        shown = [path for path in inside if recursive or "/" not in path[len(prefix) :]]
        folders = {name for path in inside for name in _parents(path, prefix, recursive=recursive)}
        return [*(self._entry(path, xet=xet) for path in shown), *map(_folder_entry, sorted(folders))]

    def _entry(self, path: str, *, xet: bool) -> dict[str, Any]:
        size = self.contents[path].size
        entry = {"type": "file", "oid": self.oid(path), "size": size, "path": path}
        if not self.is_lfs(path):
            return entry
        entry["lfs"] = {"oid": self.contents[path].sha256, "size": size, "pointerSize": 135}
        return entry | ({"xetHash": self.xet_hash(path)} if xet else {})

    def info(self, *, with_blobs: bool = False) -> dict[str, Any]:
        """Return what the model API says of it."""
        return {
            "_id": hashlib.md5(self.id.encode()).hexdigest()[:24],
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
            "library_name": "gguf",
            "pipeline_tag": self.pipeline_tag,
            "tags": self._all_tags(),
            "cardData": self._card(),
            "siblings": [self._sibling(path, with_blobs=with_blobs) for path in self.contents],
            **({"gguf": dict(self.gguf)} if self.gguf else {}),
        }

    def expanded(self, names: Collection[str]) -> dict[str, Any]:
        """Return of what the model API says what was asked for, and by what name it is known."""
        return {name: value for name, value in self.info().items() if name in {"_id", "id", *names}}

    def listed(self, *, full: bool) -> dict[str, Any]:
        """Return what a list of models says of it."""
        return self.expanded(_IN_FULL_LISTS if full else _IN_LISTS)

    def _card(self) -> dict[str, str]:
        told = {"license": self.license, "base_model": self.base_model, "pipeline_tag": self.pipeline_tag}
        return {name: value for name, value in told.items() if value is not None}

    def _all_tags(self) -> list[str]:
        told = (("base_model", self.base_model), ("license", self.license), ("region", "us"))
        is_gguf = any(".gguf" in path.lower() for path in self.files)
        return [*(["gguf"] if is_gguf else []), *self.tags, *(f"{name}:{value}" for name, value in told if value)]

    def _sibling(self, path: str, *, with_blobs: bool) -> dict[str, Any]:
        if not with_blobs:
            return {"rfilename": path}
        content = self.contents[path]
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
