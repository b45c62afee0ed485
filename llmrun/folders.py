"""Where llmrun keeps files of its own, by the platform's conventions. Makes no folder: who writes there does."""

from __future__ import annotations

from pathlib import Path


def answers_folder() -> Path:
    """Return where the engine's answers about memory are kept between runs; losing it costs milliseconds."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "dry-run"


def plans_folder() -> Path:
    """Return where plans of models seen before are kept; losing one costs planning it again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "plans"


def speed_folder() -> Path:
    """Return where what was measured on this machine is kept; losing it costs some seconds of measuring."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "speed"


def links_folder() -> Path:
    """Return where is kept how far lenders are; losing it costs some seconds of measuring."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "links"


def headers_folder() -> Path:
    """Return where the headers of files on the Hub are kept; losing it costs two requests and some MiB for each."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "headers"


def states_folder() -> Path:
    """Return where the states of conversations are kept, for their owner alone; losing one costs reading it again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "states"


def prompts_cache_folder() -> Path:
    """Return where states of prompts are kept, for their owner alone; losing one costs reading the prompt again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "prompts"


def tensors_folder() -> Path:
    """Return where a lender keeps tensors that borrowers sent; losing one costs sending it again."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "tensors"


def margins_file() -> Path:
    """Return where is kept what loads took beside what was planned; losing it costs some MiB of caution."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmrun", appauthor=False)) / "margins.jsonl"


def own_names_file() -> Path:
    """Return where the user may give short names to models; nothing of ours writes there."""
    import platformdirs

    return Path(platformdirs.user_config_dir("llmrun", appauthor=False)) / "models.toml"


def history_file() -> Path:
    """Return where conversations are kept: losing it loses them."""
    import platformdirs

    return Path(platformdirs.user_data_dir("llmrun", appauthor=False)) / "history" / "conversations.db"


def prompts_folder() -> Path:
    """Return where the user keeps prompts by name, a file each."""
    import platformdirs

    return Path(platformdirs.user_config_dir("llmrun", appauthor=False)) / "prompts"


def servers_folder() -> Path:
    """Return where servers of this user leave a note while they run; losing one makes that server unseen, not unwell.

    Without XDG_RUNTIME_DIR it lies below the folder for temporary files: whoever goes in must see whose it is.
    """
    import warnings

    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
        return Path(platformdirs.user_runtime_dir("llmrun", appauthor=False)) / "servers"
