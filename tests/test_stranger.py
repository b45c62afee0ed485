"""A stranger's hour: what goes wrong in the first minutes with llmrun, each ending in an answer or in what to type.

No compiler, an environment without pip, a container of 2 GiB, no network, a GPU beside an engine for the CPU; and what
people type before they have read anything.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.catalog import unknown_name
from llmrun.cli.hardware import Survey, hardware_figures
from llmrun.cli.idle import tell_idle_gpu
from llmrun.cli.main import app
from llmrun.console import Console
from llmrun.doctor.aside import keep_aside
from llmrun.doctor.builds import build_for, how_to_install
from llmrun.doctor.environment import choose_installer
from llmrun.doctor.facts import Maker
from llmrun.doctor.repair import plan_repair
from llmrun.doctor.toolchain import read_distribution
from llmrun.engine.protocol import DeviceList
from llmrun.errors import EngineError, NotFoundError, UsageError
from llmrun.gguf.source import check_file
from llmrun.hardware.gpu import Gpu, GpuReport
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import detect_host
from llmrun.hardware.idle import idle_note
from llmrun.settings import Constraints
from llmrun.site import Site
from tests.doctor_machines import ARC, HOST, RTX_4090, UHD, VENV, machine
from tests.environments import clean_environment
from tests.hardware_trees import plant
from tests.hub_program import Program
from tests.test_doctor import run_with_gpu

ROOT = Path(__file__).parent.parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="links and shell scripts")


def run_python(python: str, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-P", "-m", "llmrun", *arguments]
    environment = clean_environment(home) | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def assert_told(done: subprocess.CompletedProcess[str], code: int, error: str, hint: str) -> None:
    """One error and one hint, and nothing else."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    first, second = done.stderr.splitlines()
    assert (first[:7], error in first) == ("error: ", True), done.stderr
    assert (second[:6], hint in second) == ("hint: ", True), done.stderr


# ---- no compiler: the engine was not built


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as `uv tool install` makes one, with everything but the engine; returns its folder."""
    folder = tmp_path_factory.mktemp("bare") / "llmrun"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (folder / "uv-receipt.toml").write_text("[tool]\n")
    packages = Path(sysconfig.get_path("platlib", "venv", {"base": str(folder), "platbase": str(folder)}))
    apart = re.compile(r"llama_cpp.*|llmrun.*|pip(-.*)?|_?_?editable.*|_editable.*|.*\.pth|lib|include|bin|share")
    for real in Path(sysconfig.get_path("platlib")).iterdir():
        if not apart.fullmatch(real.name):
            (packages / real.name).symlink_to(real)
    return folder


@POSIX
def test_a_missing_engine_is_said_to_be_and_what_its_build_needs_comes_first(bare: Path, tmp_path: Path) -> None:
    """It is a message for whoever has no compiler, by the command of their own distribution."""
    (tmp_path / "empty").mkdir()
    done = run_python(str(bare / "bin/python"), tmp_path, "run", "guide", "hi", PATH=str(tmp_path / "empty"))
    how = how_to_install("c++", sys.platform, read_distribution())
    hint = f"a C++ compiler first ({how}), then `llmrun doctor --fix` builds it"
    assert_told(done, 7, "the engine is missing: llama-cpp-python is not installed here", hint)


@POSIX
def test_a_plan_needs_no_engine(bare: Path, tmp_path: Path) -> None:
    done = run_python(str(bare / "bin/python"), tmp_path, "plan", "guide", "--fast")
    assert (done.returncode, "it fits" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("system", "distribution", "typed"),
    [
        ("linux", "debian", "sudo apt install g++"),
        ("linux", "fedora", "sudo dnf install gcc-c++"),
        ("linux", "arch", "sudo pacman -S base-devel"),
        ("linux", "suse", "sudo zypper install gcc-c++"),
        ("linux", "alpine", "sudo apk add build-base linux-headers"),
        ("darwin", None, "xcode-select --install"),
    ],
)
def test_every_system_has_a_command_for_a_compiler(system: str, distribution: str | None, typed: str) -> None:
    assert how_to_install("c++", system, distribution) == typed


# ---- pipx and uv: environments without pip


@POSIX
def test_a_repair_that_nothing_here_can_carry_out_says_what_could(bare: Path, tmp_path: Path) -> None:
    """Uv puts no pip into what it makes, and need not be on PATH where llmrun runs."""
    python = str(bare / "bin/python")
    found = run_python(python, tmp_path, "doctor", PATH=str(tmp_path / "empty"))
    assert f"first: neither uv nor pip can be found here: {python} -m ensurepip" in found.stdout
    assert "problem  engine     the engine is missing: llama-cpp-python is not installed" in found.stdout


@pytest.mark.parametrize(
    ("made", "has_pip", "has_its_own", "maker"),
    [
        ("pipx", True, True, "pipx"),
        ("pipx", True, False, "pip"),
        ("uv", False, True, "uv"),
        ("uv", True, False, "pip"),
        ("uv", False, False, None),
        ("pip", True, True, "pip"),
    ],
)
def test_packages_are_replaced_by_who_made_the_environment_or_its_pip(
    made: Maker, has_pip: bool, has_its_own: bool, maker: Maker | None
) -> None:
    assert choose_installer(made, has_pip=has_pip, has_its_own=has_its_own) == maker


def test_without_an_installer_no_ready_built_engine_is_installed_either() -> None:
    facts = machine(environment=replace(VENV, maker="uv", installer=False))
    for prebuilt in (False, True):
        with pytest.raises(EngineError, match="neither uv nor pip can be found here: /home/ada/venv/bin/python -m"):
            plan_repair(facts, build_for(facts, "CPU"), prebuilt=prebuilt)


@POSIX
def test_an_engine_behind_a_link_is_another_environments_and_stays(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs" / "llama_cpp", tmp_path / "ours"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    ours.mkdir()
    (ours / "llama_cpp").symlink_to(theirs)
    facts = machine(environment=replace(VENV, packages=ours))
    with pytest.raises(EngineError, match="llama_cpp is a link, and belongs to another environment"):
        plan_repair(facts, build_for(facts, "CPU"), prebuilt=False)
    with pytest.raises(EngineError, match="is a link"):
        keep_aside(ours)
    assert (theirs / "__init__.py").is_file()


# ---- a container of 2 GiB


@pytest.fixture
def container(tmp_path: Path) -> str:
    """The profile of a container that may take 2 GiB of a machine's 64."""
    host = detect_host(plant(tmp_path / "root", "host-64gib", "docker-v2", "cores.i7-12700"))
    survey = Survey(Hardware(host, (), (), None, ()), DeviceList(()), None)
    path = tmp_path / "container.json"
    path.write_text(json.dumps(hardware_figures(survey)))
    return str(path)


def test_a_container_of_2_gib_is_planned_for_and_not_its_machine(program: Program, container: str) -> None:
    """What fits there is planned, what does not is refused with what would."""
    done = program("plan", "guide", "--on", container)
    assert (done.returncode, "of 2.0 GiB is free" in done.stdout) == (0, True), done.stderr
    refused = program("plan", "acme/Many-8B-GGUF", "--on", container)
    assert refused.returncode == 3, refused.stderr
    assert "the smallest quantization, IQ1_M, needs" in refused.stderr
    assert "choose a smaller model or quantization: `llmrun chat` names some" in refused.stderr


# ---- no network


@pytest.mark.parametrize(
    ("variables", "error", "hint"),
    [
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "cannot be reached: connection refused", "HTTPS_PROXY names a proxy"),
        ({"HF_HUB_OFFLINE": "1"}, "Qwen/Qwen3-4B-GGUF is not here, and we are to be offline", "unset HF_HUB_OFFLINE"),
    ],
    ids=str,
)
def test_without_a_network_a_chat_says_what_needs_none(
    tmp_path: Path, variables: dict[str, str], error: str, hint: str
) -> None:
    """At once: nothing is tried again."""
    done = run_python(sys.executable, tmp_path, "run", "qwen3:4b", "hi", **variables)
    assert_told(done, 4, error, hint)


# ---- a GPU, and an engine for the CPU

NOTE = "note: NVIDIA GeForce RTX 4090 (24.0 GiB) is not used: `llmrun doctor` says why, `llmrun doctor --fix`"


@POSIX
@pytest.mark.parametrize("arguments", [("chat", "guide"), ("plan", "guide")], ids=lambda words: words[0])
def test_a_gpu_that_lies_idle_is_told_of_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_with_gpu(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count(NOTE)) == (0, 1), done.stderr


def test_what_is_not_worth_it_is_not_told_of() -> None:
    screen = Gpu("other", "a server's screen", "0000:02:00.0")
    assert idle_note(lambda: GpuReport(), {}) is None
    assert idle_note(lambda: GpuReport((UHD, screen)), {}) is None
    assert "(24.0 GiB) is not used" in (idle_note(lambda: GpuReport((UHD, ARC, RTX_4090)), {}) or "")
    assert "Arc A770" in (idle_note(lambda: GpuReport((UHD, ARC)), {}) or "")


@pytest.mark.parametrize("value", ["", "-1"])
def test_who_hides_all_gpus_means_it(value: str) -> None:
    assert idle_note(lambda: GpuReport((RTX_4090,)), {"CUDA_VISIBLE_DEVICES": value}) is None
    assert idle_note(lambda: GpuReport((RTX_4090,)), {"CUDA_VISIBLE_DEVICES": "0"}) is not None


@pytest.mark.parametrize("constraints", [Constraints(devices=()), Constraints(n_gpu_layers=0)], ids=str)
def test_who_wants_no_gpu_is_not_told_of_one(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    tell_idle_gpu(Site(HOST.memory, HOST.threads), constraints, Console())
    assert capsys.readouterr().err == ""


# ---- what people type first


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("qwen3", "llmrun has no command 'qwen3'", "`llmrun chat qwen3` talks with that model"),
        ("acme/x-GGUF:Q4_K_M", "no command", "`llmrun chat acme/x-GGUF:Q4_K_M` talks with that model"),
        ("./m.gguf", "llmrun has no command './m.gguf'", "`llmrun chat ./m.gguf` talks with that model"),
        ("run", "llmrun run needs a model", '`llmrun run guide "what is a KV cache?"`, for one'),
        ("pull", "llmrun pull needs a model", "`llmrun pull qwen3:4b`, for one"),
        ("search", "llmrun search needs words to look for", "`llmrun search qwen3`"),
        ("--model x", "llmrun has no option --model", "`llmrun chat x`"),
        ("chat -m x", "llmrun chat has no option -m", "`llmrun chat x`"),
        ("run --model=x hi", "llmrun run has no option --model", "`llmrun run x`"),
        ("chat -m", "llmrun chat has no option -m", "`llmrun chat MODEL`"),
        ("help", "llmrun has no command 'help'", "`llmrun --help` shows the commands"),
        ("version", "llmrun has no command 'version'", "`llmrun --version`"),
        ("-v", "llmrun has no option -v", "`llmrun --version`"),
        ("ls", "llmrun has no command 'ls'", "`llmrun list` shows"),
        ("download x", "llmrun has no command 'download'", "`llmrun pull MODEL`"),
        ("chta", "llmrun has no command 'chta'", "did you mean `llmrun chat`?"),
        ("zzzz", "llmrun has no command 'zzzz'", "`llmrun chat MODEL` talks with a model"),
        ("chat --ctxx 5", "llmrun chat has no option --ctxx", "did you mean --ctx?"),
        ("chat --ctx many", "--ctx is a whole number from 1 to 16,777,216, not 'many'", "`llmrun chat --help`"),
        ("plan guide -c 32k", "--ctx is a whole number from 1 to 16,777,216, not '32k'", "for example --ctx 32768"),
        ("plan guide --ctx=1M", "not '1M'", "for example --ctx 1048576"),
        ("plan guide --ctx 99m", "not '99m'", "`llmrun plan --help`"),
        ("plan guide -c0", "not '0'", "`llmrun plan --help`"),
        ("run guide hi --seed -1", "--seed is a whole number from 0 to 4,294,967,294, not '-1'", "`llmrun run --help`"),
        ("run guide hi -n none", "--max-tokens is a whole number of at least 1, not 'none'", "`llmrun run --help`"),
        ("run guide hi --temp hot", "--temp is a number, not 'hot'", "`llmrun run --help`"),
        ("run guide hi --top-p 2", "invalid value for '--top-p': 2.0 is not between 0 and 1", "`llmrun run --help`"),
        ("serve --port 99999", "--port is a whole number from 0 to 65,535, not '99999'", "`llmrun serve --help`"),
        ("plan guide --on", "option '--on' requires an argument", "`llmrun plan --help`"),
        ("history search x --limit", "option '--limit' requires an argument", "`llmrun history search --help`"),
        ("run guide hi --key-file f", "llmrun run has no option --key-file", "the variable LLMRUN_LEND_KEY_FILE"),
        ("serve --key-file f", "llmrun serve has no option --key-file", "--api-key-file is for clients"),
        ("chat qwen3 hello there", "llmrun chat takes fewer words", "goes into quotes: `llmrun run guide "),
        ("history nothing", "llmrun history has no command 'nothing'", "`llmrun history --help`"),
    ],
)
def test_what_means_nothing_is_answered_with_what_to_type(typed: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        app(typed.split(" "))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_the_same_is_said_by_the_program_however_it_is_started(tmp_path: Path) -> None:
    """Also where PATH has no llmrun, and `python -m` is all there is."""
    done = run_python(sys.executable, tmp_path, "qwen3")
    assert_told(done, 2, "llmrun has no command 'qwen3'", "`llmrun chat qwen3` talks with that model")
    assert run_python(sys.executable, tmp_path, "--version").stdout.startswith("llmrun ")


def test_files_for_other_programs_are_not_looked_for_on_the_hub() -> None:
    told = unknown_name("model.safetensors").hint or ""
    assert "`llmrun search NAME` finds GGUF versions" in told


def test_a_folder_of_safetensors_is_known_for_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotFoundError) as caught:
        check_file(tmp_path)
    assert "safetensors files, which llama.cpp does not read: `llmrun search NAME`" in (caught.value.hint or "")
