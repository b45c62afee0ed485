"""hub.cache: what lies in the Hugging Face cache, whoever put it there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from llmrun.hub.cache import CachedRepo, cached_files, read_cache, read_repo
from llmrun.models import cached_variants
from llmrun.reference import HubRef
from llmrun.variant import ModelFile
from tests.model_trees import COMMIT, LATER, Q4, Q8, REPO, HubCache, content, posix_only, sha256


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "hub")


def only_repo(cache: HubCache) -> CachedRepo:
    (repo,) = read_cache(cache.folder).repos
    return repo


def names(repo: CachedRepo) -> list[str]:
    return [file.name for file in repo.files]


def test_a_file_is_told_with_its_size_and_the_sum_that_its_blob_is_named_by(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content(Q4), "sub/" + Q8: content(Q8, 2000), "README.md": b"#"})
    place = cache.repo() / "snapshots" / COMMIT
    repo = only_repo(cache)
    assert (repo.repo_id, repo.folder, repo.refs, repo.notes) == (REPO, cache.repo(), {"main": COMMIT}, ())
    assert repo.files == (
        ModelFile("sub/" + Q8, 2000, place / "sub" / Q8, sha256(content(Q8, 2000))),
        ModelFile(Q4, 1000, place / Q4, sha256(content(Q4))),
    )
    assert cached_files(REPO, folder=cache.folder) == repo.files


def test_repositories_without_a_gguf_file_do_not_count(cache: HubCache) -> None:
    cache.add("acme/other", {"model.safetensors": b"x"})
    assert read_cache(cache.folder).repos == ()
    assert cached_files("acme/other", folder=cache.folder) == ()


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    found = read_cache(tmp_path / "none")
    assert (found.repos, found.notes) == ((), ())
    assert read_repo(REPO, tmp_path / "none") is None


def test_a_cache_that_is_a_file_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    assert read_cache(tmp_path / "hub").notes == (f"{tmp_path / 'hub'} cannot be read: Not a directory",)


def test_a_branch_a_tag_and_a_commit_name_their_own_files(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content("old")}, COMMIT, "v1")
    cache.add(REPO, {Q4: content("new"), Q8: content(Q8)}, LATER, "main")
    cache.point(REPO, "refs/pr/3", COMMIT)
    sums = {
        revision: [file.sha256 for file in cached_files(REPO, revision, cache.folder)]
        for revision in (None, "main", "v1", "refs/pr/3", COMMIT, "v2", "../refs/main")
    }
    old, new = [sha256(content("old"))], [sha256(content("new")), sha256(content(Q8))]
    assert sums == {None: new, "main": new, "v1": old, "refs/pr/3": old, COMMIT: old, "v2": [], "../refs/main": []}


@pytest.mark.parametrize("main", [None, "3" * 40])
def test_the_newest_snapshot_stands_in_where_main_names_none_that_is_here(cache: HubCache, main: str | None) -> None:
    """Main moves on when the Hub is asked for its files, before one of them is fetched."""
    cache.add(REPO, {Q4: content("new")}, COMMIT, main and "v2")
    cache.add(REPO, {Q4: content("old")}, LATER, main and "v1")
    os.utime(cache.repo() / "snapshots" / LATER, (1, 1))
    if main:
        cache.point(REPO, "main", main)
    assert [file.sha256 for file in cached_files(REPO, folder=cache.folder)] == [sha256(content("new"))]
    assert cached_files(REPO, "main", cache.folder) == ()


def test_of_a_file_in_two_snapshots_the_newest_counts(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content("old"), Q8: content(Q8)}, COMMIT)
    cache.add(REPO, {Q4: content("new")}, LATER)
    os.utime(cache.repo() / "snapshots" / COMMIT, (1, 1))
    assert [file.sha256 for file in only_repo(cache).files] == [sha256(content("new")), sha256(content(Q8))]


def test_cached_files_are_grouped_by_their_repositorys_name_and_not_by_their_commits(
    cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a larger model of another name it is the one that the repository is named after."""
    monkeypatch.setenv("HF_HUB_CACHE", str(cache.folder))
    cache.add(REPO, {Q4: content(Q4), "other-Q8_0.gguf": content("other", 2000)})
    assert [variant.files[0].name for variant in cached_variants(HubRef(REPO))] == [Q4]


def test_case_in_a_repositorys_name_does_not_matter(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content(Q4)})
    assert [file.name for file in cached_files("ACME/Tiny-gguf", folder=cache.folder)] == [Q4]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{}.llmrun.incomplete", True),
        ("{}.0a1b2c3d.incomplete", True),
        ("{}.incomplete", True),
        ("{}.downloadInProgress", True),
        ("odd.incomplete", False),
    ],
)
def test_downloads_that_were_not_finished_are_told_of_with_their_bytes(cache: HubCache, name: str, told: bool) -> None:
    whole = sha256(content(Q8))
    path = cache.partial(REPO, name.format(whole), content(Q8)[:400])
    (partial,) = only_repo(cache).partials
    assert (partial.path, partial.size, partial.sha256) == (path, 400, whole if told else None)
    assert (partial.name, partial.total) == (None, None)


def test_a_download_has_the_name_that_the_hubs_client_remembers_for_its_sum(cache: HubCache) -> None:
    cache.remember(REPO, {Q8: content(Q8)})
    cache.partial(REPO, f"{sha256(content(Q8))}.llmrun.incomplete", content(Q8)[:400])
    (partial,) = only_repo(cache).partials
    assert (partial.name, partial.size, partial.total) == (Q8, 400, 1000)


def test_a_download_that_begins_as_no_model_does_counts_only_beside_models(cache: HubCache) -> None:
    cache.partial(REPO, f"{'a' * 64}.incomplete", b"\x93NUM")
    assert read_cache(cache.folder).repos == ()
    cache.add(REPO, {Q4: content(Q4)})
    assert [partial.size for partial in only_repo(cache).partials] == [4]


def test_without_links_files_lie_in_snapshots_and_have_the_sums_that_are_remembered(tmp_path: Path) -> None:
    cache = HubCache(tmp_path / "hub", links=False)
    cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    assert [(file.size, file.sha256) for file in only_repo(cache).files] == [(1000, None), (1000, None)]
    cache.remember(REPO, {Q4: content(Q4)})
    assert [file.sha256 for file in only_repo(cache).files] == [sha256(content(Q4)), None]


@pytest.mark.parametrize(
    "listing",
    [
        *(b"", b"[]", b"{", b'{"format_version": 2}', b'{"format_version": 1, "files": []}', b"[" * 100_000),
        b'{"format_version": 1, "files": {"tiny-Q4_K_M.gguf": {"lfs_sha256": 1, "lfs_size": -1}}}',
    ],
)
def test_a_damaged_listing_is_as_good_as_none(tmp_path: Path, listing: bytes) -> None:
    cache = HubCache(tmp_path / "hub", links=False)
    cache.add(REPO, {Q4: content(Q4)})
    cache.remember(REPO, {})
    (cache.repo() / "trees" / f"{COMMIT}.json").write_bytes(listing)
    assert [file.sha256 for file in only_repo(cache).files] == [None]


def test_blobs_that_no_snapshot_refers_to_are_told_apart(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content(Q4), "README.md": b"#"})
    left = cache.partial(REPO, "b" * 64, b"left over")
    assert only_repo(cache).unused == (left,)


@posix_only
def test_links_to_nothing_in_a_circle_and_out_of_the_cache_are_told_of_and_passed_over(
    cache: HubCache, tmp_path: Path
) -> None:
    cache.add(REPO, {Q4: content(Q4)})
    place = cache.repo() / "snapshots" / COMMIT
    (tmp_path / "secret.gguf").write_bytes(content("secret"))
    (place / "broken.gguf").symlink_to("../../blobs/none")
    (place / "circle.gguf").symlink_to("circle.gguf")
    (place / "folder.gguf").symlink_to("..")
    (place / "out.gguf").symlink_to(tmp_path / "secret.gguf")
    (place / "loop").symlink_to("..")
    (cache.repo() / "snapshots" / "linked").symlink_to(COMMIT)
    repo = only_repo(cache)
    assert names(repo) == [Q4]
    assert repo.notes == (
        f"{REPO}: broken.gguf is a link to nothing",
        f"{REPO}: circle.gguf is a link to nothing",
        f"{REPO}: folder.gguf is no file",
        f"{REPO}: out.gguf is a link out of the cache",
        f"{REPO}: snapshots/linked is no commit",
    )


@posix_only
def test_a_repository_that_lies_on_another_disk_is_read_through_its_link(cache: HubCache, tmp_path: Path) -> None:
    cache.add(REPO, {Q4: content(Q4)})
    cache.repo().rename(tmp_path / "elsewhere")
    cache.repo().symlink_to(tmp_path / "elsewhere")
    assert (names(only_repo(cache)), only_repo(cache).notes) == ([Q4], ())


@posix_only
def test_odd_names_are_read_as_they_are(cache: HubCache) -> None:
    odd = "a\x1b[31m\n\udcff-Q4_K_M.gguf"
    cache.add(REPO, {odd: b"GGUF"})
    (cache.folder / "models--a--b--c").mkdir()
    (cache.folder / "models--..").mkdir()
    (cache.folder / "models--a b").mkdir()
    (cache.folder / "datasets--a--b").mkdir()
    found = read_cache(cache.folder)
    assert [file.name for repo in found.repos for file in repo.files] == [odd]
    assert found.notes == ("models--a b is no repository's folder", "models--a--b--c is no repository's folder")


def test_folders_in_folders_without_end_are_followed_only_so_far(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content(Q4), "/".join(["d"] * 100) + "/deep.gguf": b"GGUF"})
    assert names(only_repo(cache)) == [Q4]


@posix_only
def test_the_hubs_own_client_sees_the_same(cache: HubCache) -> None:
    cache.add(REPO, {Q4: content("old"), "a/" + Q8: content(Q8)}, COMMIT, "v1")
    cache.add(REPO, {Q4: content("new")}, LATER)
    (theirs,) = scan_cache_dir(cache.folder).repos
    ours = only_repo(cache)
    seen = {
        (revision.commit_hash, str(file.file_path), file.size_on_disk, file.blob_path.name)
        for revision in theirs.revisions
        for file in revision.files
    }
    assert theirs.repo_id == ours.repo_id
    assert {(s.commit, str(f.origin), f.size, f.sha256) for s in ours.snapshots for f in s.files} == seen
    assert {ref: commit.commit_hash for ref, commit in theirs.refs.items()} == ours.refs
    assert abs(ours.last_used - theirs.last_accessed) < 5


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "~/$SOME/hf", "SOME": "thing"},
        {"HF_HOME": "/hf", "HF_HUB_CACHE": "~/cache"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_the_cache_is_where_the_hubs_client_has_it(variables: dict[str, str]) -> None:
    script = (
        "from llmrun.hub.store import cache_folder\nfrom huggingface_hub import constants\n"
        "print(cache_folder(), constants.HF_HUB_CACHE, sep='\\n')"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "HUGGINGFACE_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, env=kept | variables
    )
    ours, theirs = done.stdout.splitlines()
    assert ours == theirs
