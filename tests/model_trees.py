"""Folders of models as the programs that own them make them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMIT = "1" * 40
LATER = "2" * 40
REPO = "acme/tiny-GGUF"
QWEN = "registry.ollama.ai/library/qwen3/8b"
Q4, Q8 = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"

posix_only = pytest.mark.skipif(os.name != "posix", reason="links as this system makes them")


def content(name: str, size: int = 1000) -> bytes:
    """Bytes that begin as a model does, and are another's for every name."""
    return b"GGUF" + name.encode() + bytes(size - 4 - len(name.encode()))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class HubCache:
    """A cache as huggingface_hub and llmrun make it; without links as on Windows."""

    folder: Path
    links: bool = True

    def repo(self, repo_id: str = REPO) -> Path:
        return self.folder / f"models--{repo_id.replace('/', '--')}"

    def add(self, repo_id: str, files: Mapping[str, bytes], commit: str = COMMIT, ref: str | None = "main") -> None:
        """Put files into the snapshot of a commit, and let a ref name it."""
        for name, data in files.items():
            path = self.repo(repo_id) / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            blob = self.blob(repo_id, data) if self.links else path
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            if self.links:
                path.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))
        if ref is not None:
            self.point(repo_id, ref, commit)

    def point(self, repo_id: str, ref: str, commit: str) -> None:
        path = self.repo(repo_id) / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)

    def blob(self, repo_id: str, data: bytes) -> Path:
        return self.repo(repo_id) / "blobs" / sha256(data)

    def partial(self, repo_id: str, name: str, data: bytes) -> Path:
        path = self.repo(repo_id) / "blobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def remember(self, repo_id: str, files: Mapping[str, bytes], commit: str = COMMIT) -> None:
        """Write the listing that huggingface_hub keeps of a commit."""
        path = self.repo(repo_id) / "trees" / f"{commit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = {
            name: {"size": len(data), "blob_id": "0" * 40, "lfs_sha256": sha256(data), "lfs_size": len(data)}
            for name, data in files.items()
        }
        path.write_text(json.dumps({"format_version": 1, "files": entries}))


@dataclass(frozen=True, slots=True)
class Ollama:
    """Ollama's folder of models."""

    folder: Path

    def blob(self, data: bytes) -> Path:
        path = self.folder / "blobs" / f"sha256-{sha256(data)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def add(self, name: str, layers: Mapping[str, bytes], described: Mapping[str, object] | None = None) -> Path:
        """Put layers into blobs and their manifest where a name of four parts says."""
        told = [self.layer(kind, self.blob(data).name, len(data)) for kind, data in layers.items()]
        config = json.dumps(described or {"model_format": "gguf", "file_type": "Q4_K_M"}).encode()
        return self.write(name, self.manifest(told, self.blob(config).name))

    def write(self, name: str, manifest: Mapping[str, object]) -> Path:
        path = self.folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return path

    @staticmethod
    def layer(kind: str, digest: str, size: int) -> dict[str, object]:
        return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest.replace("-", ":"), "size": size}

    @staticmethod
    def manifest(layers: list[dict[str, object]], config: str) -> dict[str, object]:
        docker = "application/vnd.docker"
        return {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": {"mediaType": f"{docker}.container.image.v1+json", "digest": config.replace("-", ":"), "size": 1},
            "layers": layers,
        }


def write_files(folder: Path, *names: str) -> None:
    """Make files that begin as models do."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(Path(name).name))
