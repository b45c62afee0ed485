"""The wheel, as pip gives it to a user: built, installed into a clean environment, and asked something."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llmrun.server.page import ASSETS

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / ".venv" / "engine"  # where scripts/bootstrap keeps the engine it built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


def run(*command: str, stdin: str = "", cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_the_model_and_the_licence_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {f"llmrun/models/guide-{quant}.gguf" for quant in ("F16", "Q8_0", "Q4_K_M")} <= set(names)
    assert {"llmrun/py.typed", "llmrun/catalog.json"} <= set(names)
    assert {f"llmrun/server/page/{name}" for name in ("index.html", *ASSETS)} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert tops == {"llmrun", next(top for top in tops if top.endswith(".dist-info"))}


@pytest.mark.slow
def test_the_wheel_answers_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The engine's wheel is the one that the set-up built; everything else comes as it comes to a user."""
    assert list(ENGINE.glob("*.whl")), "run scripts/test: it builds the engine"
    run(sys.executable, "-m", "venv", str(tmp_path / "env"))
    python = str(tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python")
    run(python, "-m", "pip", "install", "-q", "--find-links", str(ENGINE), str(wheel))
    program = str(Path(python).parent / "llmrun")
    assert "chat" in run(program, "--help", cwd=tmp_path)
    answer = run(program, "run", "guide", "what is a kv cache", cwd=tmp_path)
    assert answer.strip()
