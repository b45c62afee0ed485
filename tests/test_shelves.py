"""shelf: the models of Ollama, LM Studio and llama.cpp, as those programs leave them; nothing there is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmrun.shelf.llama_cpp import llama_cpp_folder, read_llama_cpp
from llmrun.shelf.lmstudio import lmstudio_folders, read_lmstudio
from llmrun.shelf.model import ShelfModel
from llmrun.shelf.ollama import Manifest, canonical_name, ollama_folders, parse_manifest, read_ollama
from llmrun.shelf.shelves import ShelfFolders, find, find_all, read_shelves
from llmrun.variant import ModelFile
from tests.model_trees import Q4, Q8, QWEN, REPO, HubCache, Ollama, content, posix_only, sha256, write_files


def read(ollama: Ollama) -> tuple[ShelfModel, ...]:
    return read_ollama([ollama.folder])


def problems(models: tuple[ShelfModel, ...]) -> dict[str, str | None]:
    return {model.name: model.problem for model in models}


def test_a_model_of_ollama_is_its_blob_under_the_name_ollama_shows(ollama: Ollama) -> None:
    data = content("qwen3", 5000)
    ollama.add(QWEN, {"model": data, "template": b"{{ .Prompt }}", "params": b"{}", "license": b"MIT"})
    (model,) = read(ollama)
    name = f"sha256-{sha256(data)}"
    assert model.files == (ModelFile(name, 5000, ollama.folder / "blobs" / name, sha256(data)),)
    assert (model.name, model.quant, model.size, model.problem) == ("qwen3:8b", "Q4_K_M", 5000, None)
    assert (model.reference, model.repo_id, model.beside) == ("ollama:qwen3:8b", None, ())
    assert model.last_used == pytest.approx(model.paths[0].stat().st_mtime, abs=5)


@pytest.mark.parametrize(
    ("place", "name", "repo_id"),
    [
        (QWEN, "qwen3:8b", None),
        ("ollama.com/library/qwen3/8b", "qwen3:8b", None),
        ("registry.ollama.ai/someone/tiny/latest", "someone/tiny:latest", None),
        ("hf.co/acme/tiny-GGUF/Q8_0", "hf.co/acme/tiny-GGUF:Q8_0", "acme/tiny-GGUF"),
        ("localhost:5000/library/own/v1", "localhost:5000/library/own:v1", None),
    ],
)
def test_names_are_as_ollama_shows_them(ollama: Ollama, place: str, name: str, repo_id: str | None) -> None:
    ollama.add(place, {"model": content("m")})
    assert [(model.name, model.repo_id) for model in read(ollama)] == [(name, repo_id)]
    assert canonical_name(name) == canonical_name(":".join(place.rsplit("/", 1))) == name


def test_a_name_without_a_tag_is_the_latest() -> None:
    assert [canonical_name(name) for name in ("qwen3", "a/b", "hf.co/a/b")] == [
        "qwen3:latest",
        "a/b:latest",
        "hf.co/a/b:latest",
    ]


def test_a_projector_lies_beside_its_model(ollama: Ollama) -> None:
    ollama.add(QWEN, {"model": content("m"), "projector": content("p", 300)})
    (model,) = read(ollama)
    assert ([f.size for f in model.files], [f.size for f in model.beside], model.size) == ([1000], [300], 1300)


@pytest.mark.parametrize(
    ("described", "tag", "quant"),
    [
        ({"file_type": "Q8_0"}, "8b", "Q8_0"),
        ({"file_type": "unknown"}, "8b-q4_K_M", "Q4_K_M"),
        ({"file_type": 3}, "8b", None),
    ],
)
def test_the_quantization_is_the_descriptions_else_the_tags(
    ollama: Ollama, described: dict[str, object], tag: str, quant: str | None
) -> None:
    ollama.add(f"registry.ollama.ai/library/qwen3/{tag}", {"model": content("m")}, described)
    assert [model.quant for model in read(ollama)] == [quant]


@posix_only
def test_manifests_of_the_second_version_are_links_to_blobs_and_come_first(ollama: Ollama) -> None:
    old = ollama.add(QWEN, {"model": content("old")})
    new = Ollama(ollama.folder).add("registry.ollama.ai/library/qwen3/new", {"model": content("new")})
    blob = ollama.blob(new.read_bytes())
    new.unlink()
    link = ollama.folder / "manifests-v2" / "ollama.com" / "library" / "qwen3" / "8b"
    link.parent.mkdir(parents=True)
    link.symlink_to(Path("..", "..", "..", "..", "blobs", blob.name))
    assert old.exists()
    assert [(model.name, model.files[0].sha256) for model in read(ollama)] == [("qwen3:8b", sha256(content("new")))]


def test_of_a_list_of_manifests_the_one_with_a_model_is_taken(ollama: Ollama) -> None:
    data = content("m")
    whole = ollama.add(QWEN, {"model": data})
    tensors = Ollama.manifest([Ollama.layer("tensor", ollama.blob(b"t").name, 1)], "sha256-" + "0" * 64)
    child = ollama.blob(whole.read_bytes())
    listed = "application/vnd.ollama.manifest.list.v2+json"
    ollama.write(QWEN, {"mediaType": listed, "manifests": [tensors, json.loads(whole.read_text())]})
    reference = {"digest": child.name.replace("-", ":"), "runner": "llamacpp"}
    ollama.write("registry.ollama.ai/library/two/1", {"mediaType": listed, "manifests": [reference]})
    assert [(m.name, m.problem, m.files[0].sha256) for m in read(ollama)] == [
        ("qwen3:8b", None, sha256(data)),
        ("two:1", None, sha256(data)),
    ]


def test_what_cannot_be_used_says_why(ollama: Ollama) -> None:
    gone, short = content("gone"), content("short")
    places = {
        name: f"registry.ollama.ai/library/{name}/1" for name in ("gone", "short", "mlx", "cloud", "tuned", "not")
    }
    ollama.add(places["gone"], {"model": gone})
    ollama.blob(gone).unlink()
    ollama.add(places["short"], {"model": short})
    ollama.blob(short).write_bytes(short[:10])
    ollama.add(places["mlx"], {"tensor": b"t"}, {"model_format": "safetensors"})
    ollama.add(places["cloud"], {"license": b"MIT"})
    ollama.add(places["tuned"], {"model": content("base"), "adapter": content("adapter")})
    ollama.write(places["not"], {"layers": "none"})
    assert problems(read(ollama)) == {
        "gone:1": f"sha256-{sha256(gone)[:12]}… is missing: `ollama pull gone:1` fetches it again",
        "short:1": f"sha256-{sha256(short)[:12]}… has 10 bytes and not 1,000: `ollama pull short:1` fetches it again",
        "mlx:1": "it is in Ollama's format safetensors, which only Ollama runs",
        "cloud:1": "nothing of it lies here: it runs elsewhere, or its manifest is damaged",
        "not:1": "nothing of it lies here: it runs elsewhere, or its manifest is damaged",
        "tuned:1": "it needs an adapter, which llmrun does not apply",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"null",
        b'{"layers": [1, null, {"digest": "sha256:../../etc/passwd", "mediaType": "x", "size": 1}]}',
        b'{"layers": [{"digest": "sha256:' + b"a" * 64 + b'/..", "mediaType": "x", "size": 1}]}',
        b'{"layers": [{"digest": "sha256:' + b"a" * 64 + b'", "mediaType": 1, "size": 1}]}',
        b'{"layers": [{"digest": "sha256:' + b"a" * 64 + b'", "mediaType": "x", "size": -1}]}',
        b'{"manifests": {"a": 1}, "config": []}',
    ],
)
def test_of_a_hostile_manifest_nothing_is_left(content: bytes) -> None:
    assert parse_manifest(content) == Manifest((), None)


@posix_only
def test_a_huge_manifest_a_pipe_and_a_link_out_of_the_folder_are_not_read(ollama: Ollama, tmp_path: Path) -> None:
    outside = Ollama(tmp_path / "outside").add(QWEN, {"model": content("m")})
    folder = ollama.folder / "manifests" / "registry.ollama.ai" / "library" / "qwen3"
    folder.mkdir(parents=True)
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(folder / "pipe")
    (folder / "out").symlink_to(outside)
    (folder / "circle").symlink_to("circle")
    (folder / "a\x1b[31mb").write_text("{}")
    (folder / "deeper" / "1").mkdir(parents=True)
    found = read(ollama)
    assert [model.name for model in found] == ["qwen3:circle", "qwen3:huge", "qwen3:out", "qwen3:pipe"]
    assert all(model.problem and model.files == () for model in found)


def test_ollamas_folder_is_the_one_its_server_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert ollama_folders()[:2] == (tmp_path / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))
    monkeypatch.setenv("OLLAMA_MODELS", f" '{tmp_path}' ")
    assert ollama_folders() == (tmp_path,)


def test_models_of_lm_studio_are_told_one_for_each_quantization(tmp_path: Path) -> None:
    parts = [f"big-Q8_0-0000{no}-of-00003.gguf" for no in (1, 2, 3)]
    write_files(tmp_path / REPO, Q4, Q8, "mmproj-F16.gguf", "README.md")
    write_files(tmp_path / "acme" / "big", *parts)
    write_files(tmp_path, "loose-Q4_K_M.gguf")
    found = read_lmstudio([tmp_path])
    assert [(model.name, model.quant, [file.name for file in model.files]) for model in found] == [
        ("acme/big", "Q8_0", parts),
        (REPO, "Q4_K_M", [Q4]),
        (REPO, "Q8_0", [Q8]),
    ]
    assert [file.name for file in found[1].beside] == ["mmproj-F16.gguf"]
    assert (found[1].reference, found[1].repo_id, found[1].problem) == (f"lmstudio:{REPO}", REPO, None)


def test_a_model_in_parts_that_is_not_whole_says_so(tmp_path: Path) -> None:
    write_files(tmp_path / REPO, "big-Q8_0-00002-of-00003.gguf")
    assert [model.problem for model in read_lmstudio([tmp_path])] == ["parts 1 and 3 of 3 are missing"]


@posix_only
def test_linked_folders_are_followed_two_deep_and_links_in_a_circle_are_not(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", Q4)
    (tmp_path / "models" / "acme").mkdir(parents=True)
    (tmp_path / "models" / "acme" / "tiny").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models" / "acme" / "loop").symlink_to(tmp_path / "models")
    (tmp_path / "elsewhere" / "circle.gguf").symlink_to("circle.gguf")
    (tmp_path / "elsewhere" / "up").symlink_to("..")
    assert [(m.name, m.files[0].name) for m in read_lmstudio([tmp_path / "models"])] == [("acme/tiny", Q4)]


@pytest.mark.parametrize(
    ("pointer", "settings", "folder"),
    [
        (None, None, ".lmstudio/models"),
        ("{}/moved\n", None, "moved/models"),
        (None, {"downloadsFolder": "{}/big disk"}, "big disk"),
        (None, {"downloadsFolder": "~/big"}, "big"),
        (None, {"downloadsFolder": 3}, ".lmstudio/models"),
        ("\0", [], ".lmstudio/models"),
    ],
)
def test_lm_studios_folder_is_where_its_own_files_say(
    tmp_path: Path, pointer: str | None, settings: object, folder: str
) -> None:
    if pointer is not None:
        (tmp_path / ".lmstudio-home-pointer").write_text(pointer.format(tmp_path))
    if settings is not None:
        (tmp_path / ".lmstudio").mkdir()
        text = json.dumps(settings).replace("{}/", f"{tmp_path.as_posix()}/")
        (tmp_path / ".lmstudio" / "settings.json").write_text(text)
    assert tmp_path / folder in lmstudio_folders(tmp_path)


def llama_manifest(folder: Path, repo_id: str, model: str, projector: str | None = None) -> None:
    """As llama.cpp kept what the Hub answered to it."""

    def entry(path: str) -> dict[str, object]:
        return {"rfilename": path, "size": 1000, "lfs": {"sha256": sha256(content(path)), "size": 1000}}

    told = {"ggufFile": entry(model)} | ({"mmprojFile": entry(projector)} if projector else {})
    (folder / f"manifest={repo_id.replace('/', '=')}=latest.json").write_text(json.dumps(told))


def test_models_of_llama_cpp_are_from_the_repository_that_its_manifest_names(tmp_path: Path) -> None:
    write_files(tmp_path, f"acme_tiny-GGUF_{Q4}", "acme_tiny-GGUF_mmproj-F16.gguf", "own-Q8_0.gguf", "x.gguf.etag")
    llama_manifest(tmp_path, REPO, Q4, "mmproj-F16.gguf")
    own, tiny = read_llama_cpp(tmp_path)
    assert (tiny.name, tiny.repo_id, tiny.quant, tiny.reference) == (REPO, REPO, "Q4_K_M", REPO)
    assert [(file.name, file.sha256) for file in tiny.files] == [(Q4, sha256(content(Q4)))]
    assert tiny.paths == (tmp_path / f"acme_tiny-GGUF_{Q4}",)
    assert [file.sha256 for file in tiny.beside] == [sha256(content("mmproj-F16.gguf"))]
    assert (own.name, own.repo_id, own.files[0].sha256) == (str(tmp_path / "own-Q8_0.gguf"), None, None)


def test_parts_have_their_firsts_repository_and_no_sum(tmp_path: Path) -> None:
    parts = [f"big-Q8_0-0000{no}-of-00002.gguf" for no in (1, 2)]
    write_files(tmp_path, *(f"acme_tiny-GGUF_sub_{part}" for part in parts))
    llama_manifest(tmp_path, REPO, f"sub/{parts[0]}")
    (model,) = read_llama_cpp(tmp_path)
    assert (model.repo_id, [file.sha256 for file in model.files], model.problem) == (REPO, [None, None], None)


def test_the_address_beside_a_file_of_2025_tells_its_repository(tmp_path: Path) -> None:
    write_files(tmp_path, Q4)
    (tmp_path / f"{Q4}.json").write_text(json.dumps({"url": f"https://huggingface.co/{REPO}/resolve/main/{Q4}"}))
    assert [(model.name, model.repo_id) for model in read_llama_cpp(tmp_path)] == [(REPO, REPO)]


def test_a_cache_of_llama_cpp_that_is_as_the_hubs_is_read_as_such(tmp_path: Path) -> None:
    HubCache(tmp_path).add(REPO, {Q4: content(Q4)})
    (model,) = read_llama_cpp(tmp_path)
    assert (model.name, model.repo_id, model.files[0].sha256) == (REPO, REPO, sha256(content(Q4)))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"ggufFile": {"rfilename": 1}}', b"[" * 100_000])
def test_a_damaged_manifest_of_llama_cpp_tells_nothing(tmp_path: Path, damage: bytes) -> None:
    write_files(tmp_path, f"acme_tiny-GGUF_{Q4}")
    (tmp_path / "manifest=acme=tiny-GGUF=latest.json").write_bytes(damage)
    (tmp_path / f"acme_tiny-GGUF_{Q4}.json").write_bytes(damage)
    assert [model.repo_id for model in read_llama_cpp(tmp_path)] == [None]


def test_llama_cpps_folder_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path))
    assert llama_cpp_folder() == tmp_path


@pytest.fixture
def shelves(ollama: Ollama, tmp_path: Path) -> tuple[ShelfModel, ...]:
    """One model on each shelf, some in two quantizations."""
    ollama.add(QWEN, {"model": content("qwen3")})
    ollama.add("registry.ollama.ai/acme/tiny-GGUF/latest", {"model": content("another's")})
    ollama.add("hf.co/acme/tiny-GGUF/Q6_K", {"model": content("six")}, {"file_type": "unknown"})
    write_files(tmp_path / "lm" / REPO, Q4, Q8)
    write_files(tmp_path / "llama", "acme_tiny-GGUF_tiny-F16.gguf")
    llama_manifest(tmp_path / "llama", REPO, "tiny-F16.gguf")
    return read_shelves(ShelfFolders([ollama.folder], [tmp_path / "lm"], tmp_path / "llama"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ollama:qwen3:8b", [("ollama", "Q4_K_M")]),
        ("qwen3:8b", [("ollama", "Q4_K_M")]),
        ("QWEN3:8B", [("ollama", "Q4_K_M")]),
        ("qwen3", []),
        ("lmstudio:qwen3:8b", []),
        (f"lmstudio:{REPO}", [("lmstudio", "Q4_K_M"), ("lmstudio", "Q8_0")]),
        (f"lmstudio:{REPO}:q8_0", [("lmstudio", "Q8_0")]),
        (f"lmstudio:{REPO}:{Q8}", [("lmstudio", "Q8_0")]),
        (REPO, [("ollama", "Q6_K"), ("lmstudio", "Q4_K_M"), ("lmstudio", "Q8_0"), ("llama.cpp", "F16")]),
        ("Acme/Tiny-GGUF:F16", [("llama.cpp", "F16")]),
        (f"{REPO}:Q6_K", [("ollama", "Q6_K")]),
        (f"hf.co/{REPO}:Q6_K", [("ollama", "Q6_K")]),
        (f"{REPO}:Q2_K", []),
        ("ollama:acme/tiny-GGUF", [("ollama", "Q4_K_M")]),
    ],
)
def test_models_are_found_by_the_names_people_type(
    shelves: tuple[ShelfModel, ...], name: str, found: list[tuple[str, str]]
) -> None:
    """A repository of the Hub is never taken for a user of Ollama's with the same name."""
    assert [(model.shelf, model.quant) for model in find_all(name, shelves)] == found
    assert find(name, shelves) == next(iter(find_all(name, shelves)), None)


def test_one_that_can_be_used_comes_before_one_that_cannot(tmp_path: Path) -> None:
    write_files(tmp_path / "a" / REPO, "tiny-Q4_K_M-00001-of-00002.gguf")
    write_files(tmp_path / "b" / REPO, Q4)
    model = find(REPO, read_lmstudio([tmp_path / "a", tmp_path / "b"]))
    assert model is not None
    assert (model.problem, model.files[0].name) == (None, Q4)


def test_nothing_is_written_where_other_programs_keep_models(
    ollama: Ollama, shelves: tuple[ShelfModel, ...], tmp_path: Path
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    assert read_shelves(ShelfFolders([ollama.folder], [tmp_path / "lm"], tmp_path / "llama")) == shelves
    assert {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before
