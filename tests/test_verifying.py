"""`llmrun verify`: sound, damaged, or without a checksum, and what to type then."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pexpect
import pytest

from tests.conftest import figures
from tests.environments import clean_environment
from tests.model_trees import COMMIT, Q4, Q8, QWEN, REPO, HubCache, Ollama, content, posix_only, sha256

Run = Callable[..., CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("own_folders")


def test_sound_files_are_told_to_be(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    assert llmrun("verify", REPO).stdout == "all 2 files are as they should be\n"
    one = llmrun("verify", f"{REPO}:Q4_K_M")
    assert (one.returncode, one.stdout, one.stderr) == (0, "the file is as it should be\n", "")


@posix_only
def test_on_a_terminal_it_is_shown_how_far_it_is(hub_cache: HubCache, tmp_path: Path) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    arguments = ["-P", "-m", "llmrun.cli.main", "verify", REPO]
    environment = clean_environment(tmp_path)
    child = pexpect.spawn(sys.executable, arguments, env=environment, encoding="utf-8", timeout=60)
    child.expect_exact(f"checking {Q4}: 100% of 1000 B")
    child.expect_exact("the file is as it should be")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_a_damaged_file_is_named_with_what_to_type(llmrun: Run, hub_cache: HubCache, damage: str) -> None:
    hub_cache.add(REPO, {Q4: content(Q4), Q8: content(Q8)})
    right = content(Q8)
    wrong = right[:500] if damage == "short" else right[:500] + b"\1" + right[501:]
    hub_cache.blob(REPO, right).write_bytes(wrong)
    done = llmrun("verify", REPO)
    assert done.returncode == 4
    assert done.stdout == f"damaged: {Q8}: its sha256 is {sha256(wrong)}, and should be {sha256(right)}\n"
    assert done.stderr == (
        f"error: 1 of 2 files is damaged: {Q8}\n"
        f"hint: `llmrun rm {REPO}:{Q8}`, then `llmrun pull {REPO}:{Q8}` fetches it again\n"
    )
    assert llmrun("verify", f"{REPO}:Q4_K_M").returncode == 0
    assert llmrun("rm", f"{REPO}:{Q8}", "--yes").returncode == 0


def test_a_verdict_as_json_has_stable_keys(llmrun: Run, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    hub_cache.blob(REPO, content(Q4)).write_bytes(b"GGUF")
    done = llmrun("verify", REPO, "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout) == {
        "model": REPO,
        "sound": False,
        "files": [
            {
                "name": Q4,
                "path": str(hub_cache.repo() / "snapshots" / COMMIT / Q4),
                "size": 4,
                "sha256": sha256(content(Q4)),
                "outcome": "damaged",
                "reason": f"its sha256 is {sha256(b'GGUF')}, and should be {sha256(content(Q4))}",
            }
        ],
    }


def test_ollamas_files_are_verified_by_their_digests(llmrun: Run, ollama: Ollama) -> None:
    ollama.add(QWEN, {"model": content("qwen3")})
    assert llmrun("verify", "ollama:qwen3:8b").stdout == "the file is as it should be\n"
    ollama.blob(content("qwen3")).write_bytes(content("other"))
    done = llmrun("verify", "qwen3:8b")
    assert done.returncode == 4
    assert done.stderr.endswith("hint: `ollama pull qwen3:8b` fetches it again\n")


def test_a_file_without_a_checksum_is_judged_by_its_header_and_that_is_said(
    llmrun: Run, tiny_model: Path, tmp_path: Path
) -> None:
    done = llmrun("verify", str(tiny_model))
    assert done.stdout == "the file is judged by header and size alone: no checksum is known here\n"
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model.read_bytes()[:-100])
    done = llmrun("verify", str(cut))
    assert done.returncode == 4
    assert re.match(
        r"damaged: cut\.gguf: .*the file is incomplete: it needs [\d,]+ bytes and has [\d,]+\n", done.stdout
    )


def test_all_of_guide_and_all_of_a_folder_are_verified(llmrun: Run, tiny_model: Path) -> None:
    assert figures(llmrun("verify", "guide", "--json"))["sound"] is True
    value = figures(llmrun("verify", str(tiny_model.parent) + "/", "--json"))
    assert {file["outcome"] for file in value["files"]} == {"plausible"}


def test_what_the_cache_has_not_in_this_quantization_is_looked_for_elsewhere(
    llmrun: Run, hub_cache: HubCache, tmp_path: Path, tiny_model: Path
) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    place = tmp_path / ".lmstudio" / "models" / REPO
    place.mkdir(parents=True)
    (place / Q8).write_bytes(tiny_model.read_bytes())
    (file,) = figures(llmrun("verify", f"{REPO}:Q8_0", "--json"))["files"]
    assert (file["path"], file["outcome"]) == (str(place / Q8), "plausible")
    assert llmrun("verify", f"{REPO}:Q2_K").stderr == (
        f"error: of {REPO} in the cache: there is no quantization Q2_K\nhint: there is only Q4_K_M\n"
    )


def test_a_folder_without_a_model_is_no_sound_one(llmrun: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = llmrun("verify", f"{tmp_path}/empty/")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"error: {tmp_path}/empty has no GGUF file in it\n")


def test_what_is_not_here_cannot_be_verified(llmrun: Run) -> None:
    done = llmrun("verify", "acme/none")
    assert (done.returncode, done.stderr) == (
        5,
        "error: acme/none is not on this machine\nhint: `llmrun list` shows what is\n",
    )
