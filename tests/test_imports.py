"""The house: who may import whom, what stays outside, and what `--help` must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llmrun"

# Floors, lowest first: a module imports only from its own floor and those below. A name stands for what is in it too.
FLOORS = (
    ("errors", "units"),
    (
        "quant",
        "reference",
        "message",
        "repo_path",
        "sampling",
        "settings",
        "thinking",
        "variant",
        "gguf.header",
        "gguf.types",
        "hardware.device",
        "hardware.device_wish",
        "hardware.gpu",
        "hardware.layout",
        "hardware.link",
        "planning.rates",
        "planning.timing",
        "structured",
        "memory.footprint",
        "memory.engine_memory",
        "engine.protocol",
        "engine.sharing",
        "engine.states",
        "engine.wire",
        "engine.refusal",
        "history.record",
        "lending.status",
        "lending.words",
    ),
    (
        "file_name",
        "grouping",
        "selecting",
        "report",
        "gguf.adapter",
        "gguf.draft",
        "gguf.projector",
        "gguf.parse",
        "gguf.encode",
        "gguf.likeness",
        "gguf.purpose",
        "gguf.splits",
        "gguf.stored",
        "gguf.summary",
        "history.export",
        "history.finding",
        "prompts.prompt",
        "deployment",
        "memory",
        "planning",
    ),
    (
        "catalog",
        "deadline",
        "embedded",
        "folders",
        "images",
        "reading",
        "attachment",
        "gguf.source",
        "hardware",
        "hub",
        "lending.key",
        "private",
        "secret_file",
        "state_files",
        "servers",
        "shelf",
        "worker",
        "engine",
        "doctor",
        "history",
        "prompts",
    ),
    (
        "adapters",
        "footprints",
        "inventory",
        "lenders",
        "links",
        "measurements",
        "rpc_way",
        "speeds",
        "states",
        "prompt_files",
        "prompt_cache",
        "local",
        "margins",
        "neighbours",
        "site",
        "stock",
        "tunings",
        "planner",
        "remembered",
        "again",
        "started",
        "projectors",
        "drafts",
        "beside",
        "loading",
        "remote",
        "survey",
        "models",
        "settling",
        "pipeline",
        "tuning",
        "fetching",
        "verification",
        "suggesting",
        "suggestions",
    ),
    ("console", "server", "lending", "chat", "plots", "cli", "library", "__main__"),
)
# Who may import a package from outside; every other module may not.
OWNERS = {
    "click": ("chat",),
    "llama_cpp": ("worker",),
    "markdown_it": ("chat.view",),
    "pygments": ("chat.view",),
    "wcwidth": ("chat.view",),
    "filelock": ("hub", "lending.cache"),
    "httpx2": ("hub",),
    "huggingface_hub": ("hub",),
    "jinja2": ("worker",),
    "numpy": ("worker",),
    "matplotlib": ("plots.drawing", "plots.file", "plots.plan_picture", "plots.show_picture"),
    "msgspec": ("engine.wire", "hardware.profile", "lending", "server", "servers", "worker.tools.reading"),
    "psutil": ("hardware",),
    "pynvml": ("hardware",),
    "platformdirs": ("chat", "folders"),
    "prompt_toolkit": ("chat",),
    "pyperclip": ("chat",),
    "rich": ("cli",),
    "sqlite3": ("history",),
    "starlette": ("lending", "server"),
    "tomli_w": ("prompts",),
    "typer": ("cli",),
    "prometheus_client": ("server.metrics",),
    "uvicorn": ("server.serving", "server.connection"),
    "h11": ("server.connection",),
}


@dataclass(frozen=True, slots=True)
class Module:
    """imports: all that a module imports, wherever in it that stands; for_types: what of it type checkers alone see."""

    imports: frozenset[str]
    for_types: frozenset[str]
    is_empty: bool


@cache  # reading all of them takes seconds
def modules() -> Mapping[str, Module]:
    """Every module of the package, by its name without `llmrun.`"""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        tree = ast.parse(path.read_text("utf-8"))
        found[name.removesuffix(".__init__")] = Module(imported(tree), types_only(tree), not tree.body)
    return found


def imported(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def types_only(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            names |= imported(ast.Module(node.body, []))
    return frozenset(names)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def floor_of(name: str) -> int | None:
    return next((level for level, rooms in enumerate(FLOORS) for room in rooms if within(name, room)), None)


def own(names: Iterable[str]) -> set[str]:
    """Those of the names that are modules of the package."""
    targets = {full.removeprefix("llmrun.") for full in names if full.startswith("llmrun.")}
    return {target for target in targets if target in modules()}


def test_every_module_has_a_floor() -> None:
    homeless = [
        name
        for name, module in modules().items()
        if floor_of(name) is None and name != "__init__" and not module.is_empty
    ]
    assert homeless == []


def test_imports_run_downward_only() -> None:
    upward = [
        f"{name} imports {target}"
        for name, module in modules().items()
        if (floor := floor_of(name)) is not None
        for target in own(module.imports)
        if (other := floor_of(target)) is not None and other > floor
    ]
    assert upward == []


def test_no_import_goes_in_a_circle() -> None:
    # imports for type checkers only may point back: they are never executed
    graph = {name: own(module.imports) - own(module.for_types) - {name} for name, module in modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("package", OWNERS)
def test_a_dependency_is_imported_only_by_its_owner(package: str) -> None:
    guests = [
        name
        for name, module in modules().items()
        if any(within(target, package) for target in module.imports)
        and not any(within(name, room) for room in OWNERS[package])
    ]
    assert guests == []


def test_nothing_outside_the_worker_imports_from_it() -> None:
    guests = [
        name
        for name, module in modules().items()
        if not within(name, "worker")
        and any(within(target, "worker") for target in own(module.imports) - own(module.for_types))
    ]
    assert guests == []


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after running some code in a new interpreter."""
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    "llama_cpp",
    "matplotlib",
    "huggingface_hub",
    "httpx2",
    "numpy",
    "jinja2",
    "msgspec",
    "prompt_toolkit",
    "psutil",
    "asyncio",
    "sqlite3",
}


def test_help_loads_nothing_heavy() -> None:
    code = "from llmrun.cli.main import app\ntry: app(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(code) & HEAVY == set()


def test_what_draws_is_loaded_only_to_draw() -> None:
    code = "import llmrun.cli.planning, llmrun.cli.showing, llmrun.cli.charts, llmrun.plots.file"
    assert loaded_by(code) & {"matplotlib", "numpy"} == set()


def test_a_model_that_is_here_is_found_without_the_hubs_client() -> None:
    """A start with no request must not wait for what would make one."""
    code = (
        "from llmrun.models import open_model\nfrom llmrun.reference import parse_reference\n"
        "import llmrun.pipeline\nopen_model(parse_reference('guide'))"
    )
    assert loaded_by(code) & {"huggingface_hub", "httpx2", "rich", "asyncio"} == set()


def test_importing_the_package_loads_nothing_of_it() -> None:
    assert loaded_by("import llmrun") & (HEAVY | {"typer", "rich", "subprocess"}) == set()


def test_every_public_name_can_be_had() -> None:
    import llmrun

    assert {name for name in llmrun.__all__ if not hasattr(llmrun, name)} == set()
