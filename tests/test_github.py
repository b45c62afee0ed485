"""What GitHub shows of the project: forms that it can read, commands that there are, files where it looks for them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.exceptions import TyperException

from llmrun.cli.main import app

GITHUB = Path(__file__).parent.parent / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROGRAM: Any = typer.main.get_command(app)
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_there_are_two_forms_and_no_way_around_them() -> None:
    assert [path.name for path in FORMS] == ["bug.yml", "feature.yml"]
    assert read(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_as_github_wants_it(path: Path) -> None:
    """Source: GitHub's "Syntax for issue forms" and "Syntax for GitHub's form schema"."""
    form = read(path)
    assert set(form) == {"name", "description", "labels", "body"}
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert {item["type"] for item in form["body"]} <= KINDS
    assert len({item["id"] for item in asked}) == len({item["attributes"]["label"] for item in asked}) == len(asked)
    assert all(re.fullmatch(r"[\w-]+", item["id"]) for item in asked)
    assert any(item.get("validations") == {"required": True} for item in asked)


def test_a_bug_comes_with_the_doctors_report() -> None:
    [report] = [item for item in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"] if item.get("id") == "report"]
    assert "llmrun doctor --report report.txt" in report["attributes"]["description"]
    assert report["attributes"]["render"] == "text"  # else Markdown would make something of it
    assert report["validations"]["required"]


@pytest.mark.parametrize("path", [*FORMS, GITHUB / "SECURITY.md"], ids=lambda path: path.name)
def test_the_program_takes_the_commands_that_people_are_told_to_type(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = [" ".join(code.split()) for code in re.findall(r"`(llmrun [^`]+)`", text)]
    lines += re.findall(r"\$ (llmrun .+)", text)
    assert lines
    assert [line for line in lines if not is_taken(line)] == []


def is_taken(line: str) -> bool:
    """Whether the program takes a command line; an argument that is not named is not missed."""
    name, *words = shlex.split(line)[1:]
    command = PROGRAM.commands.get(name)
    try:
        return command is not None and bool(command.make_context(name, words))
    except TyperException as error:
        return "missing" in str(error).lower()


def test_what_is_no_command_is_found() -> None:
    lines = ["llmrun doctr", "llmrun doctor --rapport x", "llmrun plan MODEL --ctx many"]
    assert [line for line in lines if is_taken(line)] == []
