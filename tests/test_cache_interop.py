"""The cache as the Hub's own client leaves it, and as llmrun's fetching does, from a Hub on loopback."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from llmrun.hub.cache import CachedRepo, read_cache, read_repo
from tests.hub_server.content import of_bytes
from tests.hub_server.fault import Fault
from tests.hub_server.repo import Repo
from tests.hub_server.request import Request
from tests.hub_server.server import HubServer
from tests.model_trees import Q4, Q8, REPO, HubCache, content, posix_only, sha256

Run = Callable[..., subprocess.CompletedProcess[str]]

FILES = {Q4: content(Q4, 50_000), "sub/" + Q8: content(Q8, 90_000)}
DOWNLOADED = f"from huggingface_hub import *\nfor name in {[*FILES, 'README.md']!r}: hf_hub_download({REPO!r}, name)"
SNAPSHOT = f"from huggingface_hub import *\nsnapshot_download({REPO!r})"

pytestmark = pytest.mark.usefixtures("own_folders")


class Watched(HubServer):
    """A Hub that says when a file's bytes are asked for: whoever fetches it has its lock by then."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        super().__init__()

    def struck_by(self, request: Request) -> Fault:
        if request.origin == "cdn":
            self.asked.release()
        return super().struck_by(request)


@pytest.fixture
def hub() -> Iterator[Watched]:
    server = Watched()
    with server:
        server.add(
            Repo(REPO, {name: of_bytes(data) for name, data in FILES.items()} | {"README.md": of_bytes(b"# tiny\n")})
        )
        yield server


def start(hub: HubServer, home: Path, script: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a script that fetches into the cache of a home."""
    places = {"HOME": str(home), "HF_HOME": str(home / ".cache" / "huggingface"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen([sys.executable, "-P", "-c", script], env=hub.environment(home) | places | variables)


def fetched(hub: HubServer, cache: HubCache, script: str, **variables: str) -> CachedRepo:
    """What is in the cache after a script has run."""
    assert start(hub, cache.folder.parents[2], script, **variables).wait(60) == 0
    repo = read_repo(REPO, cache.folder)
    assert repo is not None
    return repo


@posix_only
@pytest.mark.parametrize("script", [DOWNLOADED, SNAPSHOT])
def test_what_the_hubs_client_fetched_is_seen_as_it_sees_it(hub: Watched, hub_cache: HubCache, script: str) -> None:
    repo = fetched(hub, hub_cache, script)
    assert {file.name: (file.size, file.sha256) for file in repo.files} == {
        name: (len(data), sha256(data)) for name, data in FILES.items()
    }
    (theirs,) = scan_cache_dir(hub_cache.folder).repos
    (revision,) = theirs.revisions
    seen = {str(file.file_path) for file in revision.files if file.file_name.endswith(".gguf")}
    assert {str(file.origin) for file in repo.files} == seen
    assert (repo.refs, repo.unused, repo.partials, repo.notes) == ({"main": revision.commit_hash}, (), (), ())


def test_without_links_the_sums_are_those_of_the_listing_it_keeps(hub: Watched, hub_cache: HubCache) -> None:
    repo = fetched(hub, hub_cache, SNAPSHOT, HF_HUB_DISABLE_SYMLINKS="1")
    assert [path for path in (hub_cache.repo() / "snapshots").rglob("*.gguf") if path.is_symlink()] == []
    assert {file.sha256 for file in repo.files} == {sha256(data) for data in FILES.values()}


def test_nothing_is_left_of_what_the_hubs_client_fetched_once_it_is_removed(
    hub: Watched, hub_cache: HubCache, llmrun: Run
) -> None:
    fetched(hub, hub_cache, SNAPSHOT)
    for name in FILES:
        assert llmrun("rm", f"{REPO}:{name}", "--yes").returncode == 0
    assert read_cache(hub_cache.folder).repos == ()
    (theirs,) = scan_cache_dir(hub_cache.folder).repos
    assert [file.file_name for revision in theirs.revisions for file in revision.files] == ["README.md"]
    assert scan_cache_dir(hub_cache.folder).warnings == []


OURS = """
from llmrun.hub.fetch import fetch
from llmrun.variant import ModelFile, RemoteFile
fetch([ModelFile({name!r}, {size}, RemoteFile({repo!r}, {commit!r}, {name!r}), {sha256!r})])
"""
THEIRS = "from huggingface_hub import *\nhf_hub_download({repo!r}, {name!r})"


@pytest.mark.parametrize("script", [OURS, THEIRS])
def test_whoever_fetches_a_file_keeps_it_from_being_removed(
    hub: Watched, hub_cache: HubCache, llmrun: Run, script: str
) -> None:
    fetched(hub, hub_cache, f"from huggingface_hub import *\nhf_hub_download({REPO!r}, {Q4!r})")
    assert hub.asked.acquire(timeout=60)
    hub.faults.append(Fault(on="cdn", hang=True))
    name, data = next((name, data) for name, data in FILES.items() if name != Q4)
    told = {"name": name, "size": len(data), "repo": REPO, "commit": hub.repos[REPO].commit, "sha256": sha256(data)}
    fetching = start(hub, hub_cache.folder.parents[2], script.format(**told))
    try:
        assert hub.asked.acquire(timeout=60)
        refused = llmrun("rm", REPO, "--yes")
        assert refused.returncode == 2
        assert "is being fetched, so nothing of it was removed" in refused.stderr
        assert llmrun("verify", f"{REPO}:{Q4}").returncode == 0
    finally:
        fetching.kill()
        fetching.wait()
    assert llmrun("rm", REPO, "--yes").returncode == 0
    assert not hub_cache.repo().exists()


def test_a_download_of_ours_that_was_cut_off_is_listed_and_can_be_removed(
    hub: Watched, hub_cache: HubCache, llmrun: Run
) -> None:
    """Cut in mid-file, then killed while the next try is waited for."""
    hub.faults.append(Fault(on="cdn", cut=40_000))
    hub.faults.append(Fault(on="cdn", hang=True))
    told = {"name": Q4, "size": len(FILES[Q4]), "repo": REPO, "commit": hub.repos[REPO].commit}
    fetching = start(hub, hub_cache.folder.parents[2], OURS.format(**told, sha256=sha256(FILES[Q4])))
    try:
        assert hub.asked.acquire(timeout=60)
        assert hub.asked.acquire(timeout=60)  # for the rest of it
    finally:
        fetching.kill()
        fetching.wait()
    (repo,) = read_cache(hub_cache.folder).repos
    (partial,) = repo.partials
    assert (partial.size, partial.sha256, repo.files) == (40_000, sha256(FILES[Q4]), ())
    assert f"`llmrun pull {REPO}`, in the same quantization, goes on with it" in llmrun("list").stdout
    assert llmrun("rm", REPO, "--unfinished", "--yes").returncode == 0
    assert not hub_cache.repo().exists()
