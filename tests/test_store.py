"""store: where files of the Hub lie, held equal to the Hub's own client; names that lead elsewhere lead nowhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.errors import HubError
from llmrun.hub.checksum import Checksum
from llmrun.hub.store import cache_folder, is_whole, place_in_cache, place_in_folder, ref_path, snapshot_path
from llmrun.variant import RemoteFile

COMMIT = "1f" * 20
SHA256 = Checksum("sha256", "ab" * 32)
FILE = RemoteFile("acme/tiny-GGUF", COMMIT, "Q4/tiny.gguf")

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"XDG_CACHE_HOME": "/xdg"},
    {"XDG_CACHE_HOME": ""},
    {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/hf"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "$BASE/hf", "BASE": "/base"},
    {"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"},
    {"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"},
    {"HF_HUB_CACHE": "~/models"},
    {"HF_HUB_CACHE": "~nosuchuser/models"},
    {"HF_HUB_CACHE": "${BASE}/models", "BASE": "/base"},
]


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_the_cache_is_where_the_hubs_own_client_has_it(variables: dict[str, str]) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    code = (
        "from huggingface_hub import constants; from llmrun.hub.store import cache_folder; "
        "import json; print(json.dumps([constants.HF_HUB_CACHE, str(cache_folder())]))"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=kept | {"HOME": "/home/somebody"} | variables, capture_output=True, check=True)
    theirs, ours = json.loads(done.stdout)
    assert ours == theirs


def test_looking_for_a_file_does_not_import_the_hubs_client() -> None:
    code = "import sys, llmrun.hub.store; print({'huggingface_hub', 'httpx2', 'filelock'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_file_lies_in_the_cache_under_its_sum_and_its_commit() -> None:
    place = place_in_cache(FILE, SHA256, Path("/cache"))
    repo = Path("/cache/models--acme--tiny-GGUF")
    assert place.final == repo / "snapshots" / COMMIT / "Q4" / "tiny.gguf"
    assert place.blob == repo / "blobs" / SHA256.value
    assert place.part == repo / "blobs" / f"{SHA256.value}.llmrun.incomplete"
    assert place.lock == Path("/cache/.locks/models--acme--tiny-GGUF") / f"{SHA256.value}.lock"


def test_without_a_sum_the_bytes_lie_under_the_commit_alone() -> None:
    place = place_in_cache(FILE, None, Path("/cache"))
    key = hashlib.sha256(f"{COMMIT}/Q4/tiny.gguf".encode()).hexdigest()
    assert (place.blob, place.part.name) == (None, f"{key}.llmrun.incomplete")


def test_in_a_folder_of_the_users_a_part_lies_beside_its_file_and_has_the_sum_in_its_name() -> None:
    place = place_in_folder(FILE, SHA256, Path("/models"))
    assert place.final == Path("/models/Q4/tiny.gguf")
    assert place.blob is None
    assert place.part == Path(f"/models/Q4/tiny.gguf.{'ab' * 8}.llmrun.incomplete")
    assert place.lock == Path(f"/models/Q4/tiny.gguf.{'ab' * 8}.llmrun.lock")


EVIL_PATHS = (
    "../tiny.gguf",
    "a/../../tiny.gguf",
    "/etc/passwd",
    "a//b.gguf",
    "./tiny.gguf",
    "",
    "a/",
    "..",
    "a\\b.gguf",
    "..\\tiny.gguf",
    "C:\\tiny.gguf",
    "C:tiny.gguf",
    "a/D:/tiny.gguf",
    "\\\\host\\share\\tiny.gguf",
    "tiny\x00.gguf",
    "tiny\n.gguf",
    "tiny\x1b[2J.gguf",
    "tiny\x9b.gguf",
)


@pytest.mark.parametrize("path", EVIL_PATHS, ids=repr)
def test_a_path_that_leads_out_of_its_folder_is_refused(path: str, tmp_path: Path) -> None:
    file = RemoteFile("acme/tiny-GGUF", COMMIT, path)
    for find in (lambda: snapshot_path(file, tmp_path), lambda: place_in_folder(file, SHA256, tmp_path)):
        with pytest.raises(HubError, match="of acme/tiny-GGUF is not fetched: it "):
            find()


@pytest.mark.parametrize("path", ["tiny.gguf", "a/b/c.gguf", "..tiny.gguf", "a..b/tiny .gguf", "模型.gguf", "a'b.gguf"])
def test_an_odd_path_that_stays_inside_is_taken(path: str, tmp_path: Path) -> None:
    assert snapshot_path(RemoteFile("acme/tiny-GGUF", COMMIT, path), tmp_path).is_relative_to(tmp_path)


def test_a_link_on_the_way_does_not_lead_out_either(tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--acme--tiny-GGUF" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "Q4").symlink_to(tmp_path)
    with pytest.raises(HubError) as caught:
        snapshot_path(FILE, tmp_path / "cache")
    repo = tmp_path / "cache" / "models--acme--tiny-GGUF"
    assert caught.value.message == f"'Q4/tiny.gguf' of acme/tiny-GGUF is not fetched: a link leads out of {repo}"


def test_the_cache_itself_and_a_repository_in_it_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "models--acme--tiny-GGUF").symlink_to(tmp_path / "other")
    assert snapshot_path(FILE, tmp_path / "cache").name == "tiny.gguf"


@pytest.mark.parametrize("repo_id", ["../x", "a/b/c", "/a", "a/..", "a--b/c", "a/b.git", "a b/c", "a/b\n", "é/b", ""])
def test_what_is_no_repository_has_no_folder(repo_id: str) -> None:
    with pytest.raises(HubError) as caught:
        snapshot_path(RemoteFile(repo_id, COMMIT, "tiny.gguf"), Path("/cache"))
    assert (caught.value.message, caught.value.hint) == (
        f"{repo_id!r} is no name of a repository",
        "write it as owner/name",
    )


@pytest.mark.parametrize("commit", ["main", "../../etc", "1F" * 20, "1f" * 19, "1f" * 20 + "\n"])
def test_what_is_no_commit_has_no_snapshot(commit: str) -> None:
    with pytest.raises(HubError, match="is no commit of acme/tiny-GGUF: it has 40 hexadecimal digits"):
        snapshot_path(RemoteFile("acme/tiny-GGUF", commit, "tiny.gguf"), Path("/cache"))


def test_a_revision_may_have_slashes_and_may_not_lead_out() -> None:
    repo = Path("/cache/models--acme--tiny-GGUF")
    assert ref_path("acme/tiny-GGUF", "refs/pr/3", Path("/cache")) == repo / "refs" / "refs" / "pr" / "3"
    with pytest.raises(HubError, match="is no name of a revision: it leads out"):
        ref_path("acme/tiny-GGUF", "../../main", Path("/cache"))


def test_the_cache_of_this_process_is_the_one_its_environment_names() -> None:
    assert cache_folder({"HF_HUB_CACHE": "/models"}) == Path("/models")


def test_a_file_with_fewer_bytes_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    assert not is_whole(path, 0)
    path.write_bytes(b"GGUF")
    assert is_whole(path, 4)
    assert not is_whole(path, 5)
    assert not is_whole(tmp_path, 4)
