"""`llmrun rm`: what goes, what it frees, and what it never touches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pexpect
import pytest
from filelock import FileLock

from llmrun.hub.cache import read_cache, read_repo
from llmrun.hub.removal import plan_removal, plan_removal_of_all, remove
from tests.conftest import figures
from tests.environments import clean_environment
from tests.model_trees import (
    COMMIT,
    LATER,
    Q4,
    Q8,
    QWEN,
    REPO,
    HubCache,
    Ollama,
    content,
    posix_only,
    sha256,
    write_files,
)

Run = Callable[..., CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("own_folders")


def disk_usage(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_quantization_is_removed_and_what_it_frees_is_what_it_says(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4, 50_000), Q8: content(Q8, 90_000), "config.json": b"{}"})
    before = disk_usage(hub_cache.folder)
    done = llmrun("rm", f"{REPO}:q4_k_m", "--yes")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{REPO}: 48.8 KiB\n  {Q4}\nremoved: 48.8 KiB are free again\n"
    assert before - disk_usage(hub_cache.folder) == 50_000
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    assert ([file.name for file in repo.files], repo.unused, repo.notes) == ([Q8], (), ())
    assert (hub_cache.repo() / "snapshots" / COMMIT / "config.json").read_bytes() == b"{}"


def test_a_whole_repository_goes_with_everything_in_it(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), "sub/" + Q8: content(Q8), "README.md": b"#"})
    hub_cache.partial(REPO, f"{'a' * 64}.llmrun.incomplete", content("part", 400))
    hub_cache.add("acme/other-GGUF", {Q4: content(Q4)})
    before = disk_usage(hub_cache.folder)
    value = figures(llmrun("rm", REPO, "--yes", "--json"))
    files = ["README.md", "sub/" + Q8, Q4, "aaaaaaaaaaaa… (unfinished)"]
    assert value == {"model": REPO, "files": files, "freed": before - disk_usage(hub_cache.folder)}
    assert not hub_cache.repo().exists()
    assert [repo.repo_id for repo in read_cache(hub_cache.folder).repos] == ["acme/other-GGUF"]


def test_only_what_was_not_finished_can_be_removed(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    part = hub_cache.partial(REPO, f"{'a' * 64}.llmrun.incomplete", content("part", 400))
    assert figures(llmrun("rm", REPO, "--unfinished", "--yes", "--json"))["freed"] == 400
    assert (part.exists(), [file.name for file in read_cache(hub_cache.folder).repos[0].files]) == (False, [Q4])
    again = llmrun("rm", REPO, "--unfinished", "--yes")
    assert (again.returncode, again.stderr.splitlines()[0]) == (5, f"error: no download of {REPO} is unfinished")


def test_what_an_interrupted_removal_left_is_told_of_and_can_be_removed(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8, 5000)})
    (hub_cache.repo() / "snapshots" / COMMIT / Q8).unlink()
    remedy = f"`llmrun rm {REPO} --unfinished` frees the room"
    assert llmrun("list").stderr == f"note: {REPO}: nothing refers to a file of it: {remedy}\n"
    assert figures(llmrun("rm", REPO, "--unfinished", "--yes", "--json"))["freed"] == 5000
    assert (llmrun("list").stderr, hub_cache.blob(REPO, content(Q4)).exists()) == ("", True)


def test_the_last_of_a_repository_takes_its_folder_along(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    hub_cache.remember(REPO, {Q4: content(Q4)})
    hub_cache.point(REPO, "refs/pr/1", LATER)
    (hub_cache.repo() / ".no_exist" / COMMIT).mkdir(parents=True)
    assert llmrun("rm", f"{REPO}:{Q4}", "-y").returncode == 0
    assert not hub_cache.repo().exists()


def test_what_another_file_shares_its_bytes_with_stays(hub_cache: HubCache) -> None:
    """The same bytes under two names, as where a file was renamed between two commits."""
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)}, COMMIT, "v1")
    hub_cache.add(REPO, {"renamed.gguf": content(Q4)}, LATER)
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    removal = plan_removal(repo, {Q4, Q8})
    assert removal.frees == 1000
    remove(removal)
    left = read_repo(REPO, hub_cache.folder)
    assert left is not None
    assert [(file.name, file.sha256) for file in left.files] == [("renamed.gguf", sha256(content(Q4)))]
    assert left.refs == {"main": LATER}
    assert [path.name for path in (hub_cache.repo() / "snapshots").iterdir()] == [LATER]


def test_what_another_snapshot_was_linked_to_since_the_question_stays(hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    removal = plan_removal(repo, {Q4, Q8})
    hub_cache.add(REPO, {Q4: content(Q4)}, LATER)
    remove(removal)
    assert (hub_cache.repo() / "snapshots" / LATER / Q4).read_bytes() == content(Q4)
    assert not hub_cache.blob(REPO, content(Q8)).exists()


def test_a_file_goes_out_of_all_snapshots(hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content("old")}, COMMIT, "v1")
    hub_cache.add(REPO, {Q4: content("new"), Q8: content(Q8)}, LATER)
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    before = disk_usage(hub_cache.folder / "models--acme--tiny-GGUF" / "blobs")
    remove(plan_removal(repo, {Q4}))
    assert before - disk_usage(hub_cache.repo() / "blobs") == 2000
    assert [file.name for found in read_cache(hub_cache.folder).repos for file in found.files] == [Q8]


def test_without_links_the_file_in_the_snapshot_goes(llmrun: Run, hub_cache: HubCache) -> None:
    plain = HubCache(hub_cache.folder, links=False)
    plain.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    assert figures(llmrun("rm", f"{REPO}:Q4_K_M", "--yes", "--json"))["freed"] == 1000
    assert [file.name for repo in read_cache(hub_cache.folder).repos for file in repo.files] == [Q8]


@posix_only
def test_only_links_go_that_lead_out_of_the_repository(llmrun: Run, hub_cache: HubCache, tmp_path: Path) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(content("mine"))
    (hub_cache.repo() / "snapshots" / COMMIT / "out.gguf").symlink_to(mine)
    (hub_cache.repo() / "blobs" / ("c" * 64)).symlink_to(mine)
    (tmp_path / "folder").mkdir()
    write_files(tmp_path / "folder", Q8)
    (hub_cache.repo() / "snapshots" / COMMIT / "linked").symlink_to(tmp_path / "folder")
    assert figures(llmrun("rm", REPO, "--yes", "--json"))["freed"] == 1000 + len(COMMIT)  # the ref is a file too
    assert (mine.read_bytes(), (tmp_path / "folder" / Q8).exists()) == (content("mine"), True)


@posix_only
def test_a_repository_on_another_disk_goes_with_the_link_to_it(hub_cache: HubCache, tmp_path: Path) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    hub_cache.repo().rename(tmp_path / "elsewhere")
    hub_cache.repo().symlink_to(tmp_path / "elsewhere")
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    remove(plan_removal_of_all(repo))
    assert not hub_cache.repo().is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@posix_only
def test_bytes_that_have_another_name_on_the_disk_are_not_promised(hub_cache: HubCache, tmp_path: Path) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    hub_cache.blob(REPO, content(Q4)).rename(tmp_path / "first")
    os.link(tmp_path / "first", hub_cache.blob(REPO, content(Q4)))
    repo = read_repo(REPO, hub_cache.folder)
    assert repo is not None
    assert plan_removal(repo, {Q4, Q8}).frees == 1000


@pytest.mark.parametrize("what", [f"{REPO}:Q8_0", REPO])
def test_what_is_being_fetched_is_not_removed(llmrun: Run, hub_cache: HubCache, what: str) -> None:
    """Whoever fetches a file holds its lock: huggingface_hub, or llmrun."""
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    before = disk_usage(hub_cache.repo())
    lock = hub_cache.folder / ".locks" / hub_cache.repo().name / f"{sha256(content(Q8))}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        done = llmrun("rm", what, "--yes")
        assert done.returncode == 2
        assert f"error: a file of {REPO} is being fetched, so nothing of it was removed" in done.stderr
        assert disk_usage(hub_cache.repo()) == before
        assert llmrun("rm", f"{REPO}:Q4_K_M", "--yes").returncode == 0
    assert llmrun("rm", what, "--yes").returncode == 0


def test_a_download_that_has_no_byte_yet_is_not_removed_under_its_owner(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    lock = hub_cache.folder / ".locks" / hub_cache.repo().name / f"{'d' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        assert llmrun("rm", REPO, "--yes").returncode == 2
    assert llmrun("rm", REPO, "--yes").returncode == 0


def test_a_download_of_llama_cpp_is_not_removed_before_it_is_left(llmrun: Run, hub_cache: HubCache) -> None:
    """It takes no lock, but its bytes come one after another."""
    part = hub_cache.partial(REPO, f"{'a' * 64}.downloadInProgress", content("part"))
    assert llmrun("rm", REPO, "--yes").returncode == 2
    os.utime(part, (time.time(), time.time() - 20))
    assert llmrun("rm", REPO, "--yes").returncode == 0


def test_a_split_model_goes_by_any_of_its_parts_whole_or_not(llmrun: Run, hub_cache: HubCache) -> None:
    whole = [f"UD-Q8_0/big-UD-Q8_0-0000{no}-of-00002.gguf" for no in (1, 2)]
    broken = "big-Q4_K_M-00002-of-00003.gguf"
    beside = "mmproj-F16.gguf"
    hub_cache.add("acme/big-GGUF", {name: content(Path(name).name) for name in (*whole, broken, beside)})
    for typed, gone in ((whole[1], whole), (broken, [broken]), (beside, [beside])):
        assert figures(llmrun("rm", f"acme/big-GGUF:{typed}", "--yes", "--json"))["files"] == gone
    assert not hub_cache.repo("acme/big-GGUF").exists()


def test_nothing_is_removed_without_a_yes(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    done = llmrun("rm", REPO, stdin="y\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        "error: nothing is removed without asking, and there is no terminal to ask on\nhint: add --yes\n"
    )
    assert hub_cache.blob(REPO, content(Q4)).exists()


@posix_only
@pytest.mark.parametrize(("answer", "there"), [("", True), ("n", True), ("y", False)])
def test_on_a_terminal_it_is_asked(hub_cache: HubCache, tmp_path: Path, answer: str, there: bool) -> None:
    hub_cache.add(REPO, {Q4: content(Q4, 50_000)})
    environment = clean_environment(tmp_path)
    arguments = ["-P", "-m", "llmrun.cli.main", "rm", f"{REPO}:Q4_K_M"]
    child = pexpect.spawn(sys.executable, arguments, env=environment, encoding="utf-8", timeout=60)
    child.expect_exact(f"remove 1 file of {REPO}, which frees 48.8 KiB? [y/N]: ")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert (hub_cache.repo().exists(), child.exitstatus) == (there, 2 if there else 0)


@pytest.mark.parametrize(
    ("model", "code", "message", "hint"),
    [
        ("guide", 2, "guide is a part of llmrun", "it goes when llmrun is uninstalled"),
        ("./x.gguf", 2, "llmrun removes only what it fetched, and x.gguf is your own file", "rm x.gguf"),
        ("qwen3:8b", 2, "llmrun reads Ollama's models and leaves them alone", "`ollama rm qwen3:8b`"),
        ("ollama:qwen3:8b", 2, "llmrun reads Ollama's models and leaves them alone", "`ollama rm qwen3:8b`"),
        ("ollama:own:1", 5, "ollama:own:1 is not in the cache", "`llmrun list` shows what is"),
        (
            "https://hf.co/acme/lm-GGUF",
            2,
            "llmrun reads LM Studio's models and leaves them alone",
            "remove it in LM Studio",
        ),
        ("acme/lm-GGUF", 2, "llmrun reads LM Studio's models and leaves them alone", "remove it in LM Studio"),
        ("acme/none", 5, "acme/none is not in the cache", "`llmrun list` shows what is"),
        ("nope", 5, "'nope' is no name that llmrun knows", "`llmrun list` shows the models that are here"),
        (f"{REPO}:Q2_K", 5, f"of {REPO} in the cache: there is no quantization Q2_K", "there is only Q4_K_M"),
        (f"{REPO}@main", 2, "a file is removed from all revisions at once", f"llmrun rm {REPO}"),
    ],
)
def test_what_is_not_llmruns_to_remove_is_refused(
    llmrun: Run, hub_cache: HubCache, ollama: Ollama, tmp_path: Path, model: str, code: int, message: str, hint: str
) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    ollama.add(QWEN, {"model": content("qwen3")})
    write_files(tmp_path / ".lmstudio" / "models" / "acme" / "lm-GGUF", Q4)
    before = disk_usage(tmp_path)
    done = llmrun("rm", model, "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"error: {message}\nhint: {hint}\n")
    assert disk_usage(tmp_path) == before
