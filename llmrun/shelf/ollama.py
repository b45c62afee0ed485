"""The models of Ollama: manifests that name blobs by their sha256.

    MODELS/manifests/HOST/NAMESPACE/MODEL/TAG       JSON: layers, each with a media type and a digest
    MODELS/manifests-v2/...                         the same since 2026, a link to a blob
    MODELS/blobs/sha256-HEX                         the model, a projector, a template, ...

As github.com/ollama/ollama has it: envconfig.Models, manifest/manifest.go and paths.go, types/model/name.go.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.reading import read_within, size_of, used_at, walk
from llmrun.shelf.model import ShelfModel
from llmrun.variant import ModelFile, quant_in_name

_MANIFESTS = ("manifests-v2", "manifests")  # Ollama looks into the newer first
_PUBLIC_HOSTS = ("registry.ollama.ai", "ollama.com")  # one registry under two names
HUB_HOSTS = ("hf.co", "huggingface.co")
_MEDIA = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_NAME_PART = re.compile(r"[\w.:-]{1,350}", re.ASCII)
_MAX_MANIFEST = 1 << 20  # bytes; real ones have one KiB
_MAX_CONFIG = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob that a manifest names; kind: "model", "projector", "adapter", ...; bytes."""

    kind: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model consists of; config: the sha256 of its description. lists: of manifests to take one of instead."""

    layers: tuple[Layer, ...]
    config: str | None
    lists: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        """Return the layers of one kind."""
        return tuple(layer for layer in self.layers if layer.kind == kind)


def ollama_folders() -> tuple[Path, ...]:
    """Return where Ollama keeps models: as its server was told, else for this user and where packages put it."""
    told = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    if told:
        return (Path(told),)
    homes = (Path(os.path.expanduser("~")), Path("/usr/share/ollama"), Path("/var/lib/ollama"))  # noqa: PTH111
    return (*(home / ".ollama" / "models" for home in homes), Path("/var/lib/ollama/models"), Path("/var/lib/ollama"))


def read_ollama(folders: Sequence[Path] | None = None) -> tuple[ShelfModel, ...]:
    """Return the models of Ollama by name, those too that it could not give to anybody else, with the reason."""
    found: dict[str, ShelfModel] = {}
    for folder in ollama_folders() if folders is None else folders:
        for path, name, repo_id in _manifests(folder):
            if name not in found:
                found[name] = _read_model(folder, path, name, repo_id)
    return tuple(found[name] for name in sorted(found))


def canonical_name(name: str) -> str:
    """Return a name as Ollama shows it: "qwen3" is "qwen3:latest", "ollama.com/library/qwen3:8b" is "qwen3:8b"."""
    start, slash, end = name.rpartition("/")
    model, colon, tag = end.partition(":")
    host, _, namespace = start.rpartition("/") if slash else ("", "", "")
    return _shown_name(host or _PUBLIC_HOSTS[0], namespace or "library", model, tag if colon else "latest")


def _shown_name(host: str, namespace: str, model: str, tag: str) -> str:
    """Return what is needed of a name, as Name.DisplayShortest in types/model/name.go."""
    if host not in _PUBLIC_HOSTS:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"


def _manifests(folder: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Yield every manifest with the name of its model, and the repository of the Hub that it is from."""
    for place in _MANIFESTS:
        for path, within in walk(folder / place):
            *parts, tag = within.split("/")
            if len(parts) != 3 or not all(_NAME_PART.fullmatch(part) for part in (*parts, tag)):
                continue
            host, owner, repo = parts
            yield path, _shown_name(host, owner, repo, tag), f"{owner}/{repo}" if host in HUB_HOSTS else None


def _read_model(folder: Path, path: Path, name: str, repo_id: str | None) -> ShelfModel:
    manifest = _read_manifest(folder, path)
    files = tuple(_file(folder, layer) for layer in manifest.of_kind("model"))
    beside = tuple(_file(folder, layer) for kind in ("projector", "adapter") for layer in manifest.of_kind(kind))
    quant, form = _described(folder, manifest)
    problem = _form_problem(manifest, form) or _file_problem(files, name)
    used = used_at(_blob(folder, layer.sha256) for layer in manifest.of_kind("model"))
    quant = quant or quant_in_name(name.rpartition(":")[2])
    return ShelfModel("ollama", name, files, quant, used, repo_id, beside, problem)


def _read_manifest(folder: Path, path: Path) -> Manifest:
    """Return a manifest, or of a list of them the first that has a model; an empty one where there is none."""
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve()):  # a link out of Ollama's own folder
            return Manifest((), None)
    except (OSError, RuntimeError):  # the latter is a circle of links, until Python 3.13
        return Manifest((), None)
    manifest = parse_manifest(read_within(path, _MAX_MANIFEST) or b"")
    for sha256 in manifest.lists:
        choice = parse_manifest(read_within(_blob(folder, sha256), _MAX_MANIFEST) or b"")
        if choice.of_kind("model"):
            return choice
    return manifest


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest; of what is not of its form nothing is left but an empty one."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return Manifest((), None)
    choices = [_parse_one(entry) for entry in _list(value, "manifests")]
    lists = tuple(sha256 for entry in _list(value, "manifests") if (sha256 := _sha256(entry)))
    whole = next((choice for choice in choices if choice.of_kind("model")), _parse_one(value))
    return Manifest(whole.layers, whole.config, lists)


def _parse_one(value: object) -> Manifest:
    layers = tuple(filter(None, map(_parse_layer, _list(value, "layers"))))
    return Manifest(layers, _sha256(value.get("config")) if isinstance(value, dict) else None)


def _parse_layer(value: object) -> Layer | None:
    sha256 = _sha256(value)
    if sha256 is None or not isinstance(value, dict):
        return None
    media, size = value.get("mediaType"), value.get("size")
    if not isinstance(media, str) or not isinstance(size, int) or size < 0:
        return None
    return Layer(media.removeprefix(_MEDIA), sha256, size)


def _list(value: object, key: str) -> list[object]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _sha256(value: object) -> str | None:
    digest = value.get("digest") if isinstance(value, dict) else None
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    return match[1].lower() if match else None


def _blob(folder: Path, sha256: str) -> Path:
    return folder / "blobs" / f"sha256-{sha256}"


def _file(folder: Path, layer: Layer) -> ModelFile:
    path = _blob(folder, layer.sha256)
    return ModelFile(path.name, layer.size, path, layer.sha256)


def _described(folder: Path, manifest: Manifest) -> tuple[str | None, str | None]:
    """Return the quantization and the format that a model's description tells."""
    content = read_within(_blob(folder, manifest.config), _MAX_CONFIG) if manifest.config else None
    try:
        value = json.loads(content or b"null")
    except (ValueError, RecursionError):
        return None, None
    return _word(value, "file_type"), _word(value, "model_format")


def _word(value: object, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) and found not in ("", "unknown") else None


def _form_problem(manifest: Manifest, form: str | None) -> str | None:
    if form not in (None, "gguf"):
        return f"it is in Ollama's format {form}, which only Ollama runs"
    if not manifest.of_kind("model"):
        return "nothing of it lies here: it runs elsewhere, or its manifest is damaged"
    if manifest.of_kind("adapter"):
        return "it needs an adapter, which llmrun does not apply"
    return None


def _file_problem(files: Sequence[ModelFile], name: str) -> str | None:
    for file in files:
        assert isinstance(file.origin, Path)
        size = size_of(file.origin)
        short = f"{file.name[:19]}…"
        if size is None:
            return f"{short} is missing: `ollama pull {name}` fetches it again"
        if size != file.size:
            return f"{short} has {size:,} bytes and not {file.size:,}: `ollama pull {name}` fetches it again"
        if not os.access(file.origin, os.R_OK):
            return f"{short} may not be read by you"
    return None
