"""How the code reads, as far as a program can tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE_FILES = sorted((ROOT / "llmrun").rglob("*.py"))
ALL_FILES = sorted(path for folder in ("llmrun", "scripts", "tests") for path in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", ALL_FILES, ids=label)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", ALL_FILES, ids=label)
def test_a_function_body_is_short(path: Path) -> None:
    """The signature does not count, nor does the docstring."""
    long = []
    for node in functions(ast.parse(path.read_text("utf-8"))):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        if length > MAX_FUNCTION_LINES:
            long.append(f"{node.name}: {length} lines")
    assert long == []


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=label)
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree)


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=label)
def test_public_names_have_a_docstring(path: Path) -> None:
    bare = []
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            members = [m for m in getattr(node, "body", []) if isinstance(m, ast.FunctionDef)]
            named = [node, *(m for m in members if isinstance(node, ast.ClassDef) and not m.name.startswith("_"))]
            bare += [item.name for item in named if not ast.get_docstring(item)]
    assert bare == []


@pytest.mark.parametrize("path", [p for p in PACKAGE_FILES if p.name != "console.py"], ids=label)
def test_only_the_console_prints(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"] == []


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=label)
def test_values_that_cross_modules_are_frozen(path: Path) -> None:
    """A dataclass has slots, and is frozen unless its name is private or it says what changes in it."""
    loose = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            text = ast.unparse(decorator)
            if text.startswith("dataclass") and "slots=True" not in text:
                loose.append(node.name)
    assert loose == []


def test_init_files_are_empty() -> None:
    filled = [
        label(p) for p in PACKAGE_FILES if p.name == "__init__.py" and p.parent.name != "llmrun" and p.read_text()
    ]
    assert filled == []


@pytest.mark.parametrize("path", ALL_FILES, ids=label)
def test_no_broad_except_but_at_the_top(path: Path) -> None:
    """What catches everything raises it again; only the tops may keep it: of the worker, and of a request."""
    swallowing = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert swallowing == [] or label(path) in (
        "llmrun/worker/desk.py",
        "llmrun/worker/fault.py",
        "llmrun/server/watch.py",
    )
