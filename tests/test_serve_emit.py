"""`llmrun serve --emit`: files that serve what the command line said, within limits in which its plan fits again."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrun import pipeline
from llmrun.cli.emit_unit import program_of
from llmrun.cli.given import given_options
from llmrun.cli.main import app
from llmrun.cli.serve_options import OUTPUTS, SLOTS
from llmrun.deployment.containerfile import health_command
from llmrun.deployment.limits import SERVER, memory_limits, mib
from llmrun.deployment.options import serve_words, without
from llmrun.deployment.quoting import systemd_argument
from llmrun.embedded import embedded_file
from llmrun.hardware.cpu import CpuInfo
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import Host
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.planning.plan import Plan, PlanWish
from llmrun.reference import parse_reference
from llmrun.settings import Constraints
from tests import systemd
from tests.serving import serving

Run = Callable[..., subprocess.CompletedProcess[str]]
MIB, GIB = 1 << 20, 1 << 30
WISH = PlanWish(slots=SLOTS, outputs=OUTPUTS)
KEY = "a-key-that-nobody-guesses"


@functools.cache
def serve() -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands["serve"]


def understood(words: list[str]) -> typer.Context:
    """The command line of `serve` as the program understands it."""
    context: typer.Context = serve().make_context("serve", list(words))
    return context


def meant(words: list[str]) -> dict[str, Any]:
    return {name: value for name, value in understood(words).params.items() if name != "emit"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "the 100% $keys"
    path.write_text(f"me: {KEY}\n")
    path.chmod(0o600)
    return path


# ---- the options


WORD = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12)
FLAGS = st.fixed_dictionaries(
    {},
    optional={
        "--ctx": st.integers(1, 1 << 20),
        "-ngl": st.integers(0, 99),
        "--kv-type": st.sampled_from(("q8_0", "F16")),
        "-t": st.integers(1, 64),
        "--parallel": st.integers(1, 8),
        "--reserve": st.sampled_from(("1GiB", "512 MiB")),
        "--keep-alive": st.sampled_from(("-1", "5m", "forever")),
        "--grace": st.floats(0, 3600, allow_nan=False),
        "--rate": WORD,
        "--max-body": WORD,
        "--host": WORD,
        "--port": st.integers(1, 65535),
        "--api-key-file": WORD,
    },
)


@given(
    st.lists(WORD.filter(lambda text: not text.startswith("-")), min_size=1, max_size=3),
    FLAGS,
    st.lists(st.tuples(st.sampled_from(("--device", "--pin", "--allow-host", "--allow-origin")), WORD), max_size=4),
    st.sets(st.sampled_from(("--offline", "--require-gpu", "--insecure", "--quiet", "-v", "--log-prompts"))),
)
def test_what_a_unit_starts_means_what_was_typed(
    models: list[str], flags: dict[str, object], lists: list[tuple[str, str]], switches: set[str]
) -> None:
    typed = [*models, "--emit", "systemd", *sorted(switches)]
    for name, value in [*flags.items(), *lists]:
        typed += [name, str(value)]
    options = without(given_options(understood(typed)), "--emit")
    line = " ".join(["/bin/llmrun", *map(systemd_argument, serve_words(models, options))])
    assert meant(systemd.words(line, {})[2:]) == meant(typed)


def test_only_what_was_given_is_given_again() -> None:
    context = understood(["guide", "-c", "4096", "--grace", "2.5", "--grace", "30", "-q"])
    options = [(option.name, option.value) for option in given_options(context)]
    assert sorted(options, key=str) == [("--ctx", "4096"), ("--grace", "30"), ("--quiet", None)]


# ---- the limits


def planned_within(limit: int, wish: PlanWish) -> Plan:
    """The plan for guide in a group with a limit, of which the server has its part, on a large machine."""
    memory = HostMemory(limit, limit - SERVER, limit=limit, machine_total=64 * GIB, outside=60 * GIB)
    host = Host(memory, CpuInfo(None, 2, 2, None, frozenset()), Threads(1, 1, "for the test"))
    return pipeline.plan(parse_reference("guide"), wish=wish, on=Hardware(host)).plan


def test_the_plan_of_a_large_machine_is_the_plan_within_its_limits() -> None:
    free = planned_within(32 * GIB, WISH)
    limits = memory_limits(free.forecast.pools[0].needed)
    assert planned_within(limits.high, WISH).settings == planned_within(limits.most, WISH).settings == free.settings
    with_reserve = memory_limits(free.forecast.pools[0].needed, 3 * GIB)
    assert planned_within(with_reserve.high, replace(WISH, reserve_host=3 * GIB)).settings == free.settings


def test_with_less_than_the_limits_the_plan_would_be_another() -> None:
    free = planned_within(32 * GIB, WISH)
    less = memory_limits(free.forecast.pools[0].needed).high - free.forecast.pools[0].used.kv_cache // 2
    assert planned_within(less, WISH).settings != free.settings


# ---- the command


def test_a_unit_has_the_limits_of_the_plan_and_says_what_to_do(llmrun: Run, tmp_path: Path) -> None:
    done = llmrun("serve", "guide", "--ctx", "1024", "--threads", "1", "--emit", "systemd")
    assert done.returncode == 0, done.stderr
    plan = json.loads(llmrun("plan", "guide", "--ctx", "1024", "--threads", "1", "--json").stdout)
    [high] = systemd.setting(done.stdout, "MemoryHigh")
    # `plan` plans one conversation, `serve` up to four
    assert int(high.removesuffix("M")) * MIB > plan["total"] + SERVER + 64 * MIB
    assert systemd.words(systemd.setting(done.stdout, "ExecStart")[0], {})[1:] == [
        "serve", "guide", "--ctx", "1024", "--threads", "1",
    ]  # fmt: skip
    unit = tmp_path / "llmrun.service"
    unit.write_text(done.stdout)
    assert systemd.check(unit, tmp_path) == ""
    assert "note: its first lines say how to enable it" in done.stderr
    assert all(len(line) <= 80 for line in done.stderr.splitlines() if "mkdir" not in line)


def test_what_a_unit_starts_serves_with_the_key_that_systemd_hands_over(
    llmrun: Run, keys: Path, tmp_path: Path
) -> None:
    done = llmrun("serve", "guide", "-t", "1", "--api-key-file", str(keys), "--emit", "systemd")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    [credential] = systemd.setting(done.stdout, "LoadCredential")
    assert systemd.specified(credential) == f"api-keys:{keys}"
    handed = tmp_path / "credentials" / "api-keys"
    handed.parent.mkdir()
    shutil.copy(keys, handed)
    handed.chmod(0o400)  # as systemd makes it
    variables = {"CREDENTIALS_DIRECTORY": str(handed.parent)}
    _, command, *words = systemd.words(systemd.setting(done.stdout, "ExecStart")[0], variables)
    assert command == "serve"
    with serving(tmp_path / "home", *words) as server:
        assert server.ask("/v1/models")[0] == 401
        assert server.ask("/v1/models", headers={"Authorization": f"Bearer {KEY}"})[0] == 200
        port = int(server.url.rpartition(":")[2])
        assert subprocess.run([sys.executable, *health_command(port)[1:]], check=False).returncode == 0
    gone = subprocess.run([sys.executable, *health_command(port)[1:]], check=False, capture_output=True)
    assert gone.returncode != 0


def test_a_container_listens_to_others_with_a_key_and_is_opened_to_this_machine(llmrun: Run) -> None:
    done = llmrun("serve", "guide", "-t", "1", "--port", "9000", "--emit", "containerfile")
    assert done.returncode == 0, done.stderr
    [arguments] = [found.value for found in dockerfile.parse_string(done.stdout) if found.cmd == "CMD"]
    context = understood(list(arguments[1:]))
    assert arguments[0] == "serve"
    chosen = {name: context.params[name] for name in ("models", "host", "port", "threads", "api_key_file")}
    assert chosen == {
        "models": ["guide"], "host": "0.0.0.0", "port": 9000, "threads": 1,
        "api_key_file": Path("/run/secrets/llmrun-keys"),
    }  # fmt: skip
    assert "127.0.0.1:9000:9000" in done.stdout
    assert "make a key" in done.stderr


def test_a_model_of_this_machine_is_taken_in_by_its_own_name(llmrun: Run, tiny_model: Path, keys: Path) -> None:
    options = ("--api-key-file", str(keys), "-t", "1", "--host", "192.168.1.5", "--pin", str(tiny_model))
    done = llmrun("serve", str(tiny_model), *options, "--emit", "compose")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    service = found["services"]["llmrun"]
    inside = f"/models/0/{tiny_model.name}"
    assert service["volumes"][1] == {
        "type": "bind", "source": str(tiny_model), "target": inside, "read_only": True,
    }  # fmt: skip
    context = understood([word.replace("$$", "$") for word in service["command"][1:]])
    assert context.params["models"] == context.params["pin"] == [inside]
    assert context.params["allow_host"] == ["192.168.1.5"]
    assert service["ports"] == ["192.168.1.5:8080:8080"]
    assert found["secrets"] == {"llmrun-keys": {"file": str(keys).replace("$", "$$")}}
    assert re.fullmatch(r"[0-9]+m", service["mem_limit"])


def test_a_draft_of_this_machine_is_taken_in_too(llmrun: Run, tmp_path: Path, keys: Path) -> None:
    draft = Path(shutil.copy(embedded_file("Q4_K_M"), tmp_path / "small.gguf"))
    shared = ("-t", "1", "-c", "512", "--emit")
    own = ("--api-key-file", str(keys))
    done = llmrun("serve", "guide:Q8_0", "guide:F16", "--draft", str(draft), *own, *shared, "compose")
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load(done.stdout)["services"]["llmrun"]
    inside = "/models/draft/small.gguf"
    assert {"type": "bind", "source": str(draft), "target": inside, "read_only": True} in service["volumes"]
    assert service["command"][service["command"].index("--draft") + 1] == inside
    unit = llmrun("serve", "guide:Q8_0", "--draft", os.path.relpath(draft), *shared, "systemd").stdout
    words = systemd.words(systemd.setting(unit, "ExecStart")[0], {})
    assert words[words.index("--draft") + 1] == str(draft)


def test_several_models_are_within_the_limits_together(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("serve", "guide", str(tiny_model), "-t", "1", "-c", "1024", "--emit", "systemd")
    assert done.returncode == 0, done.stderr
    alone = [
        pipeline.plan(parse_reference(model), Constraints(n_ctx=1024, n_threads=1), WISH).plan.forecast.pools[0].needed
        for model in ("guide", str(tiny_model))
    ]
    [high] = systemd.setting(done.stdout, "MemoryHigh")
    assert int(high.removesuffix("M")) == mib(sum(alone) + SERVER + 64 * MIB)


def test_paths_are_those_of_the_folder_it_was_typed_in(llmrun: Run, tiny_model: Path) -> None:
    done = llmrun("serve", os.path.relpath(tiny_model), "-t", "1", "--emit", "systemd")
    assert done.returncode == 0, done.stderr
    assert systemd.words(systemd.setting(done.stdout, "ExecStart")[0], {})[2] == str(
        tiny_model.parent.resolve() / tiny_model.name
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--emit", "docker"), "--emit knows systemd, containerfile, compose"),
        (("--emit", "systemd", "--api-key", "new"), "an API key does not belong into a file"),
        (("--emit", "systemd", "--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines"),
        (("--emit", "systemd", "--api-key-file", "/nowhere/keys"), "/nowhere/keys, which should hold API keys, cannot"),
        (("--emit", "systemd", "--keep-alive", "soon"), "'soon' is no time"),
        (("--emit", "compose", "--port", "0"), "--port 0 is any port"),
        (("--emit", "compose", "--host", "box.example"), "opened at an address, and box.example is a name"),
    ],
)
def test_what_could_not_be_served_is_refused_at_once(llmrun: Run, words: tuple[str, ...], message: str) -> None:
    done = llmrun("serve", "guide", "-t", "1", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in " ".join(done.stderr.split())


def test_the_program_is_the_one_that_pip_put_beside_this_python(tmp_path: Path) -> None:
    assert program_of(tmp_path, "/env/bin/python") == ("/env/bin/python", "-P", "-m", "llmrun.cli.main")
    (tmp_path / "llmrun").touch()
    assert program_of(tmp_path, "/env/bin/python") == (str(tmp_path / "llmrun"),)
