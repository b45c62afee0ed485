"""fetch: what lies here, in the cache that other programs share and in folders of the user's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from llmrun.errors import DiskFullError, HubError, UnreachableError, UsageError
from llmrun.variant import ModelFile, RemoteFile
from tests.fetching import CONTENT, NAME, README, REPO, SHA256, Bench, nobody, repository
from tests.hub_server.fault import Fault

SIZE = len(CONTENT)


# the cache, shared with the Hub's own client


def test_the_hubs_own_client_finds_what_was_fetched(bench: Bench) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    paths = bench.fetch(bench.file(), bench.file("README.md"), revision="main")
    for path, name in zip(paths, (NAME, "README.md"), strict=True):
        assert try_to_load_from_cache(REPO, name, cache_dir=bench.cache) == str(path)
        assert hf_hub_download(REPO, name, cache_dir=bench.cache, local_files_only=True) == str(path)
    found = scan_cache_dir(bench.cache)
    (repo,) = found.repos
    (revision,) = repo.revisions
    assert (found.warnings, repo.repo_id, revision.commit_hash) == ([], REPO, bench.commit)
    assert revision.refs == {"main"}
    assert {file.file_name for file in revision.files} == {NAME, "README.md"}
    assert (bench.cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert repo.size_on_disk == SIZE + len(README)
    assert {str(path.readlink()) for path in paths} == {
        f"../../blobs/{SHA256}",
        "../../blobs/" + hashlib.sha1(b"blob %d\0" % len(README) + README).hexdigest(),
    }


def test_what_the_hubs_own_client_fetched_is_used_without_a_request(bench: Bench) -> None:
    from huggingface_hub import hf_hub_download

    file = bench.file()
    theirs = hf_hub_download(
        REPO, NAME, revision=bench.commit, cache_dir=bench.cache, endpoint=bench.server.url, token=False
    )
    assert bench.fetch(file) == (Path(theirs),)
    assert bench.wire == []


def test_what_is_here_is_used_where_there_is_no_hub(bench: Bench) -> None:
    file = bench.file()
    paths = bench.fetch(file)
    with nobody() as endpoint:
        assert bench.fetch(file, hub=bench.hub(endpoint)) == paths
    assert bench.fetch(file, offline=True) == paths


def test_what_is_here_is_had_without_importing_the_hubs_client(bench: Bench, tmp_path: Path) -> None:
    file = bench.file()
    (path,) = bench.fetch(file)
    code = f"""
import sys
from pathlib import Path
from llmrun.hub.fetch import FetchWish, fetch
from llmrun.variant import ModelFile, RemoteFile
print(fetch([{file!r}], FetchWish(folder=Path({str(bench.cache)!r})))[0])
print({{"huggingface_hub", "httpx2", "filelock"}} & set(sys.modules))
"""
    environment = bench.server.environment(tmp_path)
    told = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert told.stdout == f"{path}\nset()\n"


def test_what_is_not_here_is_not_asked_for_offline(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.file()
    errors = [bench.failure(file, offline=True)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    errors.append(bench.failure(file))
    assert [(type(error), error.message, error.hint) for error in errors] == [
        (
            UnreachableError,
            f"{NAME} of {REPO} is not here, and we are to be offline",
            "`llmrun list` shows what is here; leave out `--offline`, or unset HF_HUB_OFFLINE",
        )
    ] * 2
    assert bench.wire == []


def test_a_file_of_another_commit_with_the_same_bytes_is_linked(bench: Bench) -> None:
    bench.fetch()
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    file = bench.file()
    (path,) = bench.fetch(file)
    assert path.read_bytes() == CONTENT
    assert bench.wire == []
    assert [blob.name for blob in bench.blobs.iterdir()] == [SHA256]


def test_a_file_that_lost_bytes_on_the_disk_is_fetched_again(bench: Bench) -> None:
    (path,) = bench.fetch()
    os.truncate(path.resolve(), 1000)
    assert bench.fetch() == (path,)
    assert path.read_bytes() == CONTENT


def test_where_there_are_no_links_the_bytes_lie_under_the_files_own_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    (path,) = bench.fetch(revision="main")
    assert (path.is_symlink(), path.read_bytes()) == (False, CONTENT)
    assert list(bench.blobs.iterdir()) == []
    assert try_to_load_from_cache(REPO, NAME, cache_dir=bench.cache) == str(path)
    bench.fetch()
    assert bench.wire == []


def test_without_links_the_bytes_that_another_snapshot_leads_to_stay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (linked,) = bench.fetch()
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    file = bench.file()
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    (path,) = bench.fetch(file)
    assert bench.wire == []
    assert (path.is_symlink(), path.read_bytes()) == (False, CONTENT)
    assert (linked.is_symlink(), linked.read_bytes()) == (True, CONTENT)


def test_without_links_bytes_that_are_mended_stay_where_another_snapshot_leads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (linked,) = bench.fetch()
    os.truncate(linked.resolve(), 1000)
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    (path,) = bench.fetch()
    assert (path.is_symlink(), path.read_bytes(), linked.read_bytes()) == (False, CONTENT, CONTENT)


def test_without_links_a_file_of_another_commit_is_not_fetched_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    (first,) = bench.fetch()
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    file = bench.file()
    (path,) = bench.fetch(file)
    assert bench.wire == []
    assert path.samefile(first)


def test_without_links_another_file_of_that_name_and_size_is_not_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    (first,) = bench.fetch()
    first.write_bytes(b"GGUF" + bytes(SIZE - 4))
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT


def test_a_small_file_is_checked_as_git_does(bench: Bench) -> None:
    bench.server.faults.append(Fault(on="hub", method="GET", path="resolve-cache", status=200, body=b"# tony\n"))
    (path,) = bench.fetch(bench.file("README.md"))
    assert path.read_bytes() == README
    assert bench.heard.restarts == ["the bytes that came are not those of the file"]


def test_parts_of_a_model_come_in_their_order(bench: Bench) -> None:
    parts = {f"big-{no:05d}-of-00003.gguf": b"GGUF" + bytes([no]) * 70_000 for no in (1, 2, 3)}
    bench.server.add(repository(parts))
    files = [bench.file(name, content) for name, content in parts.items()]
    paths = bench.fetch(*files)
    assert [path.read_bytes() for path in paths] == list(parts.values())
    assert [path.name for path in paths] == list(parts)
    assert bench.heard.done == list(paths)


@pytest.mark.parametrize("path", ["../../evil.gguf", "/tmp/evil.gguf", "C:\\evil.gguf", "a\x1b.gguf"])
def test_a_name_that_leads_elsewhere_is_not_asked_for(bench: Bench, path: str) -> None:
    error = bench.failure(ModelFile(path, SIZE, RemoteFile(REPO, bench.commit, path), SHA256))
    assert isinstance(error, HubError)
    assert error.message.startswith(f"{path!r} of {REPO} is not fetched: it ")
    assert bench.wire == []


def test_a_sum_that_is_none_does_not_become_a_name(bench: Bench) -> None:
    error = bench.failure(ModelFile(NAME, SIZE, bench.file().origin, "../../evil"))
    assert error.message == f"'../../evil' is no sha256 of {NAME}: it has 64 hexadecimal digits"


def test_a_cache_that_cannot_be_written_is_told_of(bench: Bench) -> None:
    bench.cache.write_text("a file where the folder should be")
    error = bench.failure()
    assert (type(error), error.message, error.hint) == (
        HubError,
        f"{bench.cache} cannot be used: file exists",
        "set HF_HUB_CACHE to a folder on another disk",
    )


# what others left


@pytest.mark.parametrize(
    "name", [f"{SHA256}.0a1b2c3d.incomplete", f"{SHA256}.incomplete", f"{SHA256}.downloadInProgress"]
)
def test_what_another_program_left_is_gone_on_with(bench: Bench, name: str) -> None:
    left = bench.leave(CONTENT[:2_000_000], name)
    bench.leave(CONTENT[:1_000_000], f"{SHA256}.ffffffff.incomplete")
    bench.leave(CONTENT[:500_000])
    os.utime(left, (0, 0))
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [("cdn", "GET", 206, "bytes=2000000-")]
    assert [blob.name for blob in bench.blobs.iterdir()] == [SHA256]


def test_what_llama_cpp_is_writing_now_is_left_to_it(bench: Bench) -> None:
    left = bench.leave(CONTENT[:2_000_000], f"{SHA256}.downloadInProgress")
    bench.fetch()
    assert bench.wire[1:] == [("cdn", "GET", 200, None)]
    assert left.read_bytes() == CONTENT[:2_000_000]


def test_what_llama_cpp_writes_after_a_silence_stays_out_of_the_file(bench: Bench) -> None:
    left = bench.leave(CONTENT[:2_000_000], f"{SHA256}.downloadInProgress")
    with left.open("ab") as theirs:
        os.utime(left, (0, 0))
        (path,) = bench.fetch()
        theirs.write(b"more")
    assert bench.wire[1:] == [("cdn", "GET", 206, "bytes=2000000-")]
    assert path.read_bytes() == CONTENT


def test_what_of_theirs_cannot_be_read_is_passed_over(bench: Bench) -> None:
    left = bench.leave(b"", f"{SHA256}.0a1b2c3d.incomplete")
    left.unlink()
    left.symlink_to("nothing")
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT


def test_a_remembered_revision_that_is_no_text_is_written_anew(bench: Bench) -> None:
    bench.fetch(revision="main")
    ref = bench.blobs.parent / "refs" / "main"
    ref.write_bytes(b"\xff\xfe\x00")
    bench.fetch(revision="main")
    assert ref.read_text() == bench.commit


def test_of_a_file_with_holes_what_is_before_the_first_is_taken(bench: Bench) -> None:
    left = bench.leave(CONTENT[: 1 << 20], f"{SHA256}.0a1b2c3d.incomplete")
    with left.open("r+b") as file:
        file.seek(2 << 20)
        file.write(CONTENT[2 << 20 :])
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [("cdn", "GET", 206, f"bytes={1 << 20}-")]
    assert bench.heard.restarts == []


def test_more_of_ours_is_not_given_up_for_less_of_theirs(bench: Bench) -> None:
    bench.leave(CONTENT[:1_000_000], f"{SHA256}.0a1b2c3d.incomplete")
    bench.leave(CONTENT[:2_000_000])
    bench.fetch()
    assert bench.wire[1:] == [("cdn", "GET", 206, "bytes=2000000-")]


def test_a_longer_file_of_theirs_with_less_before_its_first_hole_is_left(bench: Bench) -> None:
    left = bench.leave(b"", f"{SHA256}.0a1b2c3d.incomplete")
    with left.open("r+b") as file:
        file.seek(1 << 20)
        file.write(CONTENT[1 << 20 :])
    bench.leave(CONTENT[:2_000_000])
    (path,) = bench.fetch()
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [("cdn", "GET", 206, "bytes=2000000-")]


# a folder of the user's


def test_in_a_folder_a_file_lies_as_itself_and_nothing_beside_it(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    bench.server.faults.append(Fault(on="cdn", method="GET", path=".", cut=1_000_004))
    (path,) = bench.fetch(local_dir=folder)
    assert (path, path.is_symlink(), path.read_bytes()) == (folder / NAME, False, CONTENT)
    assert [found.name for found in folder.iterdir()] == [NAME]
    assert not bench.cache.exists()
    assert bench.fetch(local_dir=folder) == (path,)
    assert bench.wire == []


def test_a_download_into_a_folder_goes_on_too(bench: Bench, tmp_path: Path) -> None:
    part = tmp_path / f"{NAME}.{SHA256[:16]}.llmrun.incomplete"
    part.write_bytes(CONTENT[:2_000_000])
    (path,) = bench.fetch(local_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    assert bench.wire[1:] == [("cdn", "GET", 206, "bytes=2000000-")]


def test_a_file_of_the_cache_goes_into_a_folder_without_a_request_and_without_a_copy(
    bench: Bench, tmp_path: Path
) -> None:
    (cached,) = bench.fetch()
    (path,) = bench.fetch(local_dir=tmp_path / "models", offline=True)
    assert bench.wire == []
    assert path.read_bytes() == CONTENT
    assert path.samefile(cached)
    assert not path.is_symlink()


def test_a_damaged_file_of_the_cache_does_not_go_into_a_folder(bench: Bench, tmp_path: Path) -> None:
    (cached,) = bench.fetch()
    cached.write_bytes(b"GGUF" + bytes(SIZE - 4))
    with pytest.raises(UnreachableError):
        bench.fetch(local_dir=tmp_path / "models", offline=True)
    assert bench.wire == []
    (path,) = bench.fetch(local_dir=tmp_path / "models")
    assert path.read_bytes() == CONTENT


def test_a_folders_lock_is_let_go_before_it_is_removed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows removes no file that is open."""
    remove = Path.unlink

    def as_windows(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".lock":
            FileLock(path).acquire(timeout=0).lock.release()
        remove(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", as_windows)
    (path,) = bench.fetch(local_dir=tmp_path / "models")
    assert path.read_bytes() == CONTENT


def test_where_no_second_name_can_be_had_the_bytes_are_copied_and_checked(bench: Bench) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == bench.cache.parent.stat().st_dev:
        pytest.skip("there is no other disk here")
    bench.fetch()
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        (path,) = bench.fetch(local_dir=Path(folder), offline=True)
        assert path.read_bytes() == CONTENT
        assert [found.name for found in Path(folder).iterdir()] == [NAME]
    assert bench.wire == []
    assert bench.heard.checked[-1] == (SIZE, SIZE)


def test_a_copy_onto_another_disk_needs_room_there(bench: Bench) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == bench.cache.parent.stat().st_dev:
        pytest.skip("there is no other disk here")
    (cached,) = bench.fetch()
    size = shutil.disk_usage(elsewhere).total + 1
    os.truncate(cached.resolve(), size)
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder, pytest.raises(DiskFullError):
        bench.fetch(replace(bench.file(), size=size), local_dir=Path(folder))


def test_only_what_was_added_up_is_said_to_be_right(bench: Bench) -> None:
    bench.fetch()
    bench.server.add(repository({NAME: CONTENT, "README.md": b"another\n"}))
    bench.fetch()
    assert bench.heard.right == [True, False]


def test_another_file_of_that_name_is_the_users(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"GGUF" + bytes(SIZE - 4))
    (tmp_path / NAME).chmod(0o444)
    error = bench.failure(local_dir=tmp_path)
    assert (type(error), error.message, error.hint) == (
        UsageError,
        f"{tmp_path / NAME} is there, and is another file",
        "move it away, or name another folder",
    )
    assert (tmp_path / NAME).read_bytes() == b"GGUF" + bytes(SIZE - 4)
