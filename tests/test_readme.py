"""The README: what is generated is fresh, what is claimed is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.readme import README, ROOT, render


def test_the_generated_pieces_of_the_readme_are_fresh() -> None:
    text = README.read_text("utf-8")
    assert render(text) == text, "run scripts/readme"


def test_the_pictures_are_fresh() -> None:
    pytest.importorskip("matplotlib")
    from scripts.pictures import pictures

    stale = [path.name for path, drawn in pictures().items() if not path.exists() or path.read_bytes() != drawn]
    assert stale == [], "run scripts/readme"


def test_every_file_the_documents_name_is_there() -> None:
    named = set()
    documents = (README, *(ROOT / ".github").glob("*.md"), ROOT / "models" / "README.md")
    for path in documents:
        named |= set(re.findall(r"`((?:scripts|models|tests|\.github)/[\w./-]+)`", path.read_text("utf-8")))
        named |= set(re.findall(r"^(scripts/\w+)", path.read_text("utf-8"), re.MULTILINE))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_map_names_every_module() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    rooms = re.findall(r"`([\w.*]+)`", text)
    missing = []
    for path in sorted((ROOT / "llmrun").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "llmrun").with_suffix("").parts)
        covered = any(name == room or (room.endswith("*") and name.startswith(room[:-1])) for room in rooms)
        if not covered and not name.endswith("__init__"):
            missing.append(name)
    assert missing == []


def test_no_document_speaks_of_this_machine() -> None:
    documents = [path for folder in ("models", ".github") for path in (ROOT / folder).rglob("*.md")] + [
        *ROOT.glob("*.md")
    ]
    found = [path.name for path in documents if re.search(r"/(work|root|home)/", Path(path).read_text("utf-8"))]
    assert found == []
