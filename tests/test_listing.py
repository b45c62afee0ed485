"""`llmrun list`: the real program on folders as the programs that own them make them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun.cli.listing import inventory_text
from llmrun.embedded import embedded_file
from llmrun.hub.cache import Partial, read_cache
from llmrun.inventory import Holding, Inventory, Unfinished
from llmrun.variant import ModelFile
from tests.conftest import figures
from tests.model_trees import COMMIT, Q4, Q8, QWEN, REPO, HubCache, Ollama, content, posix_only, sha256, write_files
from tests.test_imports import HEAVY, loaded_by

Run = Callable[..., CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("own_folders")


def test_everything_on_this_machine_is_listed(llmrun: Run, hub_cache: HubCache, ollama: Ollama, tmp_path: Path) -> None:
    hub_cache.add(REPO, {Q4: content(Q4, 5000), Q8: content(Q8, 9000), "README.md": b"#"})
    hub_cache.partial(REPO, f"{'a' * 64}.llmrun.incomplete", content("part", 1500))
    hub_cache.partial("acme/new-GGUF", f"{'b' * 64}.downloadInProgress", content("part", 100))
    ollama.add(QWEN, {"model": content("qwen3", 7000)})
    write_files(tmp_path / ".lmstudio" / "models" / "acme" / "lm-GGUF", Q4)
    write_files(tmp_path / ".cache" / "llama.cpp", Q8)
    done = llmrun("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert rows[0] == "MODEL QUANT SIZE LAST USED"
    assert rows[4:] == [
        f"{REPO} Q4_K_M 4.9 KiB today",
        "Q8_0 8.8 KiB today",
        "unfinished 1.5 KiB today",
        f"> `llmrun pull {REPO}`, in the same quantization, goes on with it",
        "ollama:qwen3:8b Q4_K_M 6.8 KiB today",
        "lmstudio:acme/lm-GGUF Q4_K_M 1000 B today",
        f"~/.cache/llama.cpp/{Q8} Q8_0 1000 B today",
        "acme/new-GGUF unfinished 100 B today",
        "> `llmrun pull acme/new-GGUF`, in the same quantization, goes on with it",
        "",
        "15.2 KiB in ~/.cache/huggingface/hub, 8.8 KiB in other programs' folders, which",
        "llmrun only reads",
    ]


def test_the_list_as_json_has_stable_keys(llmrun: Run, hub_cache: HubCache, ollama: Ollama) -> None:
    hub_cache.add(REPO, {Q4: content(Q4, 5000)})
    hub_cache.remember(REPO, {Q8: content(Q8)})
    part = hub_cache.partial(REPO, f"{sha256(content(Q8))}.llmrun.incomplete", content(Q8)[:400])
    ollama.add(QWEN, {"model": content("qwen3", 7000)})
    value = figures(llmrun("list", "--json"))
    totals = {"total", "total_cache", "total_others", "total_remembered"}
    assert set(value) == {"cache", "models", "unfinished", "notes", *totals}
    assert (value["cache"], value["notes"]) == (str(hub_cache.folder), [])
    assert (value["total_cache"], value["total_others"]) == (5400, 7000)
    path = hub_cache.repo() / "snapshots" / COMMIT / Q4
    embedded = sum(embedded_file(quant).stat().st_size for quant in ("F16", "Q8_0", "Q4_K_M"))
    assert value["total"] == 5400 + 7000 + embedded
    assert [model["model"] for model in value["models"]] == [
        *("guide:Q8_0", "guide:F16", "guide:Q4_K_M"),
        f"{REPO}:Q4_K_M",
        "ollama:qwen3:8b",
    ]
    model = value["models"][3]
    assert model.pop("last_used") == pytest.approx(time.time(), abs=60)
    assert model == {
        "model": f"{REPO}:Q4_K_M",
        "keeper": "hub",
        "kind": "model",
        "quant": "Q4_K_M",
        "size": 5000,
        "problem": None,
        "files": [{"name": Q4, "path": str(path), "size": 5000, "sha256": sha256(content(Q4, 5000))}],
    }
    (download,) = value["unfinished"]
    assert download.pop("last_used") == pytest.approx(time.time(), abs=60)
    told = {"model": REPO, "name": Q8, "path": str(part), "size": 400, "total": 1000, "sha256": sha256(content(Q8))}
    assert download == told


def test_parts_are_one_model_and_what_is_none_says_what_it_is(llmrun: Run, hub_cache: HubCache) -> None:
    names = ["big-Q4_K_M.gguf", "UD-Q8_0/big-UD-Q8_0-00001-of-00002.gguf", "UD-Q8_0/big-UD-Q8_0-00002-of-00002.gguf"]
    names += ["big-Q6_K-00002-of-00002.gguf", "mmproj-F16.gguf", "draft-1b-Q8_0.gguf"]
    hub_cache.add("acme/big-GGUF", {name: content(Path(name).name) for name in names})
    told = [
        (model["model"], model["kind"], model["quant"], len(model["files"]), model["problem"])
        for model in figures(llmrun("list", "--json"))["models"]
        if model["keeper"] == "hub"
    ]
    assert told == [
        ("acme/big-GGUF:Q4_K_M", "model", "Q4_K_M", 1, None),
        ("acme/big-GGUF:UD-Q8_0", "model", "UD-Q8_0", 2, None),
        ("acme/big-GGUF:draft-1b-Q8_0.gguf", "model", "Q8_0", 1, None),
        ("acme/big-GGUF:big-Q6_K-00002-of-00002.gguf", "model", None, 1, "part 1 of 2 is missing"),
        ("acme/big-GGUF:mmproj-F16.gguf", "mmproj", None, 1, None),
    ]
    rows = [" ".join(line.split()) for line in llmrun("list").stdout.splitlines()]
    assert "mmproj 1000 B today" in rows
    assert "> part 1 of 2 is missing" in rows


def test_without_a_single_model_guide_is_listed(llmrun: Run) -> None:
    done = llmrun("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["guide", "F16", "Q4_K_M"]
    assert done.stdout.splitlines()[-1] == "0 B in ~/.cache/huggingface/hub"


@posix_only
def test_what_is_odd_is_told_beside_the_list_and_names_cannot_write_to_the_terminal(
    llmrun: Run, hub_cache: HubCache
) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    (hub_cache.repo() / "snapshots" / COMMIT / "e\x1b]0;vil\x07.gguf").symlink_to("../../blobs/none")
    done = llmrun("list")
    assert done.stderr == f"note: {REPO}: e\\x1b]0;vil\\x07.gguf is a link to nothing\n"
    assert llmrun("list", "--quiet").stderr == ""


def test_listing_loads_nothing_heavy(tmp_path: Path, hub_cache: HubCache) -> None:
    hub_cache.add(REPO, {Q4: content(Q4)})
    code = (
        f"import os\nos.environ['HOME'] = {str(tmp_path)!r}\nfrom llmrun.cli.main import app\n"
        "try: app(['list'])\nexcept SystemExit: pass"
    )
    assert loaded_by(code) & (HEAVY | {"filelock"}) == set()


def test_hundreds_of_files_are_read_in_a_moment(hub_cache: HubCache) -> None:
    for number in range(100):
        hub_cache.add(f"many/repo{number}-GGUF", {f"m-{quant}.gguf": b"GGUF" for quant in ("Q4_K_M", "Q6_K", "Q8_0")})
    begun = time.process_time()
    assert sum(len(repo.files) for repo in read_cache(hub_cache.folder).repos) == 300
    assert time.process_time() - begun < 0.4  # 0.08 s where nothing else runs


NOON = 1_800_000_000 - 1_800_000_000 % 86_400 + time.timezone + 43_200  # somewhere near the middle of a day here


@pytest.mark.parametrize(
    ("days", "said"),
    [
        *((-3, "today"), (0, "today"), (1, "yesterday"), (2, "2 days ago"), (13, "13 days ago"), (14, "2 weeks ago")),
        *((59, "8 weeks ago"), (60, "2 months ago"), (729, "24 months ago"), (730, "2 years ago"), (10**9, None)),
    ],
)
def test_when_a_model_was_used_is_said_as_people_say_it(tmp_path: Path, days: int, said: str | None) -> None:
    files = (ModelFile(Q4, 1000, tmp_path / Q4),)
    held = Holding("hub", REPO, f"{REPO}:Q4_K_M", files, quant="Q4_K_M", last_used=NOON - 86_400.0 * days)
    row = inventory_text(Inventory(tmp_path, (held,), (), ()), NOON).splitlines()[1]
    assert row.endswith(said or " years ago")


def test_a_name_too_long_for_its_column_has_a_line_of_its_own(tmp_path: Path) -> None:
    name = f"acme/{'long-' * 9}GGUF"
    held = [Holding("hub", name, "", (ModelFile(Q4, 1000, tmp_path / q),), quant=q) for q in ("Q4_K_M", "Q8_0")]
    partial = Partial(tmp_path / "part", 260, NOON, None, Q8, 1000)
    found = Inventory(tmp_path, (*held,), (Unfinished(name, partial),), ())
    assert inventory_text(found, NOON).splitlines()[1:6] == [
        name,
        f"{'':40} Q4_K_M           1000 B",
        f"{'':40} Q8_0             1000 B",
        f"{'':40} unfinished        260 B  today",
        f"  > 26% of {Q8} is here: `llmrun pull",
    ]
