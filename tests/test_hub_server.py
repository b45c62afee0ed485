"""hub_server: the Hub's own client gets from it what it gets from the Hub, with the same requests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from llmrun.hub.client import hub_api, new_session
from tests.hub_server.content import sparse
from tests.hub_server.repo import Repo
from tests.hub_server.server import HubServer

ID, NAME, MODEL, README = "acme/tiny-GGUF", "tiny-Q4_K_M.gguf", b"GGUF" + bytes(range(256)) * 40, b"# tiny\n"
SHA256 = hashlib.sha256(MODEL).hexdigest()
GGUF = {"total": 1000, "architecture": "llama", "context_length": 2048, "totalFileSize": len(MODEL)}
REPO = Repo(
    ID,
    {NAME: MODEL, "README.md": README, "BF16/a.gguf": b"GGUFa", "BF16/deep/b.gguf": b"GGUFb"},
    license="mit",
    base_model="acme/tiny",
    downloads=5,
    likes=3,
    gguf=GGUF,
)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub_api()  # its settings for the whole process: no telemetry, no Xet, no progress bars
    # the client as it is: ours asks nobody but the Hub that the environment names
    huggingface_hub.set_client_factory(lambda: httpx2.Client(follow_redirects=True, timeout=30))
    with HubServer(page_size=2) as server:
        server.add(REPO)
        yield server
    huggingface_hub.set_client_factory(new_session)


def api(hub: HubServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def metadata(hub: HubServer, name: str = NAME, token: str | bool = False, **which: Any) -> Any:
    url = hf_hub_url(which.pop("repo_id", ID), name, endpoint=hub.url, **which)
    return get_hf_file_metadata(url, endpoint=hub.url, token=token)


def download(hub: HubServer, cache: Path, name: str = NAME, token: str | bool = False, repo_id: str = ID) -> Path:
    path = huggingface_hub.hf_hub_download(repo_id, name, cache_dir=cache, endpoint=hub.url, token=token)
    return Path(path)


def wire(hub: HubServer) -> list[tuple[str, str, int | None]]:
    return [(asked.origin, asked.method, asked.status) for asked in hub.requests()]


# what a repository has


def test_a_model_is_told_of_with_its_files_and_their_checksums(hub: HubServer) -> None:
    info = api(hub).model_info(ID, files_metadata=True)
    assert (info.id, info.sha, info.gated, info.private, info.gguf) == (ID, REPO.commit, False, False, GGUF)
    assert info.tags == ["gguf", "base_model:acme/tiny", "license:mit", "region:us"]
    assert info.card_data is not None
    assert info.card_data.license == "mit"
    files = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in info.siblings or ()}
    assert files[NAME] == (len(MODEL), SHA256)
    assert files["README.md"] == (len(README), None)
    assert [asked.query for asked in hub.requests()] == ["blobs=true"]


def test_of_a_model_only_what_is_asked_for_is_told(hub: HubServer) -> None:
    info = api(hub).model_info(ID, expand=["gguf", "downloads"])
    assert (info.id, info.gguf, info.downloads, info.sha, info.siblings) == (ID, GGUF, 5, None, None)


def test_a_list_of_files_comes_in_pages_with_the_folders_at_its_end(hub: HubServer) -> None:
    found = list(api(hub).list_repo_tree(ID, recursive=True, revision=REPO.commit))
    files = {entry.path: (entry.size, entry.lfs and entry.lfs.sha256) for entry in found if isinstance(entry, RepoFile)}
    assert files[NAME] == (len(MODEL), SHA256)
    assert files["README.md"] == (len(README), None)
    assert list(files) == ["BF16/a.gguf", "BF16/deep/b.gguf", "README.md", NAME]
    assert [entry.path for entry in found if isinstance(entry, RepoFolder)] == ["BF16", "BF16/deep"]
    assert wire(hub) == [("hub", "GET", 200)] * 3


def test_a_folder_is_listed_without_those_in_it_unless_that_is_asked_for(hub: HubServer) -> None:
    assert [entry.path for entry in api(hub).list_repo_tree(ID, "BF16")] == ["BF16/a.gguf", "BF16/deep"]
    with pytest.raises(EntryNotFoundError):
        list(api(hub).list_repo_tree(ID, "F16"))


def test_paths_are_told_of_one_by_one(hub: HubServer) -> None:
    (found,) = api(hub).get_paths_info(ID, [NAME, "none.gguf"])
    assert isinstance(found, RepoFile)
    assert (found.path, found.size) == (NAME, len(MODEL))


def test_names_are_listed_as_they_are_however_evil(hub: HubServer) -> None:
    evil = ["../x.gguf", "/etc/x.gguf", "C:\\x.gguf", "a\\..\\x.gguf", "x\x1b[2J\n.gguf"]
    hub.add(Repo("acme/evil-GGUF", dict.fromkeys(evil, b"GGUF")))
    found = api(hub).list_repo_tree("acme/evil-GGUF", recursive=True)
    assert {entry.path for entry in found if isinstance(entry, RepoFile)} == set(evil)


def test_a_new_commit_leaves_branches_tags_and_commits_as_they_are(hub: HubServer) -> None:
    hub.tag(ID, "v1")
    newer = hub.add(Repo(ID, {NAME: b"GGUF newer"}))
    trial = hub.add(Repo(ID, {NAME: b"GGUF on trial"}), branch="refs/trial")
    sizes = {name: metadata(hub, revision=name).size for name in (None, "main", "v1", REPO.commit, "refs/trial")}
    assert sizes == {None: 10, "main": 10, "v1": len(MODEL), REPO.commit: len(MODEL), "refs/trial": 13}
    refs = api(hub).list_repo_refs(ID)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": newer.commit, "refs/trial": trial.commit}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": REPO.commit}


# files


def test_of_a_large_file_everything_is_told_with_the_way_to_the_other_server(hub: HubServer) -> None:
    found = metadata(hub)
    assert (found.etag, found.size, found.commit_hash) == (SHA256, len(MODEL), REPO.commit)
    assert found.location.startswith(f"{hub.cdn_url}/xet-bridge-us/{SHA256}?Expires=")
    assert wire(hub) == [("hub", "HEAD", 302)]


def test_a_large_file_comes_from_the_other_server_which_never_sees_the_token(hub: HubServer, tmp_path: Path) -> None:
    path = download(hub, tmp_path, token="hf_good")
    assert path.read_bytes() == MODEL
    assert wire(hub) == [("hub", "HEAD", 302), ("cdn", "GET", 200)]
    assert [asked.authorization for asked in hub.requests()] == ["Bearer hf_good", None]
    assert hub.bytes_sent == len(MODEL)


def test_a_small_file_comes_from_the_hub_itself(hub: HubServer, tmp_path: Path) -> None:
    path = download(hub, tmp_path, "README.md")
    assert path.read_bytes() == README
    assert wire(hub) == [("hub", "HEAD", 307), ("hub", "HEAD", 200), ("hub", "GET", 200)]


def test_a_whole_repository_can_be_had(hub: HubServer, tmp_path: Path) -> None:
    folder = Path(huggingface_hub.snapshot_download(ID, cache_dir=tmp_path, endpoint=hub.url, token=False))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == REPO.files


def test_140_gb_are_listed_and_asked_for_in_parts_and_take_no_room(hub: HubServer) -> None:
    size = 140_000_000_000
    hub.add(Repo("acme/large-GGUF", {"l.gguf": sparse((b"GGUF", b"header"), size, stand_in=True)}))
    found = metadata(hub, "l.gguf", repo_id="acme/large-GGUF")
    assert found.size == size
    part = huggingface_hub.get_session().get(found.location, headers={"Range": "bytes=2-12"})
    end = huggingface_hub.get_session().get(found.location, headers={"Range": f"bytes={size - 5}-"})
    assert (part.status_code, part.content) == (206, b"UFheader\0\0\0")
    assert (end.status_code, end.content) == (206, bytes(5))


def test_xet_is_announced_where_it_is_wished_for(hub: HubServer, tmp_path: Path) -> None:
    hub.xet = True
    found = metadata(hub)
    assert found.xet_file_data is not None
    assert found.xet_file_data.file_hash == REPO.xet_hash(NAME) != SHA256
    (file,) = api(hub).get_paths_info(ID, [NAME])
    assert isinstance(file, RepoFile)
    assert file.xet_hash == REPO.xet_hash(NAME)


def test_a_mirror_has_large_files_itself(hub: HubServer, tmp_path: Path) -> None:
    hub.direct = True
    found = metadata(hub)
    assert (found.etag, found.size, found.location) == (SHA256, len(MODEL), hf_hub_url(ID, NAME, endpoint=hub.url))
    assert download(hub, tmp_path).read_bytes() == MODEL
    assert hub.requests("cdn") == []


# who may have what


def test_gated_files_are_for_tokens_that_may_have_them(hub: HubServer, tmp_path: Path) -> None:
    hub.add(Repo("acme/gated-GGUF", {NAME: MODEL}, gated="manual"))
    assert api(hub).model_info("acme/gated-GGUF").gated == "manual"
    assert [entry.path for entry in api(hub).list_repo_tree("acme/gated-GGUF")] == [NAME]
    statuses = []
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError) as refused:
            metadata(hub, repo_id="acme/gated-GGUF", token=token)
        statuses.append(refused.value.response.status_code)
    assert statuses == [401, 403]
    assert download(hub, tmp_path, repo_id="acme/gated-GGUF", token="hf_good").read_bytes() == MODEL


@pytest.mark.parametrize("repo_id", ["acme/none", "acme/private-GGUF"])
def test_what_is_not_there_is_told_as_what_is_private(hub: HubServer, repo_id: str) -> None:
    hub.add(Repo("acme/private-GGUF", {NAME: MODEL}, private=True))
    statuses = []
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError) as refused:
            api(hub, token).model_info(repo_id)
        statuses.append(refused.value.response.status_code)
    assert statuses == [401, 404]


def test_a_private_repository_is_there_for_its_owner(hub: HubServer) -> None:
    hub.add(Repo("acme/private-GGUF", {NAME: MODEL}, private=True))
    assert api(hub, "hf_good").model_info("acme/private-GGUF").private is True
    assert metadata(hub, repo_id="acme/private-GGUF", token="hf_good").size == len(MODEL)


def test_revisions_and_files_that_are_not_there_are_told_apart(hub: HubServer) -> None:
    with pytest.raises(RevisionNotFoundError):
        api(hub).model_info(ID, revision="v9")
    with pytest.raises(RevisionNotFoundError):
        metadata(hub, revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        metadata(hub, "none.gguf")


def test_a_token_nobody_knows_is_refused_even_where_none_is_needed(hub: HubServer) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as refused:
        api(hub, "hf_nobody").model_info(ID)
    assert type(refused.value) is HfHubHTTPError
    assert refused.value.response.status_code == 401


def test_whose_a_token_is_can_be_asked(hub: HubServer) -> None:
    assert api(hub, "hf_good").whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError):
        api(hub, "hf_nobody").whoami()


def test_a_renamed_repository_answers_by_its_old_name(hub: HubServer, tmp_path: Path) -> None:
    hub.rename(ID, "acme/new-GGUF")
    info = api(hub).model_info(ID)
    assert (info.id, info.sha) == ("acme/new-GGUF", REPO.commit)
    assert download(hub, tmp_path).read_bytes() == MODEL
    assert wire(hub) == [
        ("hub", "GET", 307),
        ("hub", "GET", 200),
        ("hub", "HEAD", 307),
        ("hub", "HEAD", 302),
        ("cdn", "GET", 200),
    ]


# what there is


@pytest.fixture
def many(hub: HubServer) -> HubServer:
    hub.add(Repo("acme/Big-8B-GGUF", {"b.gguf": b"GGUF"}, downloads=900, likes=1))
    hub.add(Repo("other/Big-70B-GGUF", {"b.gguf": b"GGUF"}, downloads=70, likes=50, gated="auto", gguf=GGUF))
    hub.add(Repo("other/Big-7B", {"b.safetensors": b""}, downloads=5000))
    hub.add(Repo("acme/Big-secret-GGUF", {"b.gguf": b"GGUF"}, private=True))
    return hub


def found(hub: HubServer, **asked: Any) -> list[str]:
    return [info.id for info in api(hub).list_models(**asked)]


def test_models_are_found_by_words_tags_and_owner_in_the_order_asked_for(many: HubServer) -> None:
    assert found(many, search="big gguf", filter="gguf", sort="downloads") == ["acme/Big-8B-GGUF", "other/Big-70B-GGUF"]
    assert found(many, search="big", filter="gguf", sort="likes") == ["other/Big-70B-GGUF", "acme/Big-8B-GGUF"]
    assert found(many, author="other", sort="downloads") == ["other/Big-7B", "other/Big-70B-GGUF"]
    assert found(many, gated=True) == ["other/Big-70B-GGUF"]
    assert found(many, search="nothing") == []


def test_what_is_found_comes_in_pages_up_to_the_limit(many: HubServer) -> None:
    assert len(found(many)) == 4
    assert wire(many) == [("hub", "GET", 200)] * 2
    assert len(found(many, limit=3)) == 3


def test_of_what_is_found_only_what_is_asked_for_is_told(many: HubServer) -> None:
    wanted: list[Any] = ["downloads", "likes", "gated", "gguf"]
    (info,) = api(many).list_models(search="70b", expand=wanted)
    assert (info.downloads, info.likes, info.gated, info.gguf, info.tags) == (70, 50, "auto", GGUF, None)
    (info,) = api(many).list_models(search="70b")
    assert (info.downloads, info.gated, info.gguf) == (70, None, None)
    (info,) = api(many).list_models(search="70b", full=True)
    assert (info.gated, info.sha is not None) == ("auto", True)


# programs


def test_a_program_in_its_environment_asks_this_hub_and_keeps_all_in_one_folder(hub: HubServer, tmp_path: Path) -> None:
    script = f"import huggingface_hub as h; print(h.hf_hub_download({ID!r}, {NAME!r}))"
    environment = hub.environment(tmp_path) | {"COLUMNS": "80"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    assert wire(hub) == [("hub", "HEAD", 302), ("cdn", "GET", 200)]


def test_nothing_in_its_environment_leads_elsewhere(hub: HubServer, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path)
    ours = {name for name in environment if name.startswith(("HF_", "XDG_", "LLMRUN_"))}
    assert ours == {"HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_TELEMETRY"}
    assert environment["PATH"] == os.environ["PATH"]
