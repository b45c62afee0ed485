"""`python -m llmrun` is `llmrun`: for those whose PATH does not have it."""

from __future__ import annotations

from llmrun.cli.entry import main

if __name__ == "__main__":
    main()
