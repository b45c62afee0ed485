"""What the flags of the commands that run or plan a model mean, as values: constraints, wishes, a plan from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.adapters import parse_loras
from llmrun.attachment import read_attachment
from llmrun.cli.names import lasting_reference
from llmrun.engine.protocol import Grammar
from llmrun.errors import NotFoundError, UsageError
from llmrun.hardware.device_wish import DeviceWish, parse_device
from llmrun.hub.settings import hub_address
from llmrun.planning.forecast import Source
from llmrun.planning.plan import PlanWish
from llmrun.planning.plan_file import SavedPlan, parse_plan
from llmrun.planning.policy import PREFERENCES, Prefer
from llmrun.reference import parse_reference
from llmrun.settings import AUTO, MAX_DRAFT, MTP, Constraints
from llmrun.units import format_bytes, parse_bytes

_LEAST_RESERVE = 1 << 20


@dataclass(frozen=True, slots=True)
class DeviceWishes:
    """The devices to use: None is all, () the CPU alone."""

    wishes: tuple[DeviceWish, ...] | None

    @property
    def names(self) -> tuple[str, ...] | None:
        """Their names, as the settings have them."""
        return None if self.wishes is None else tuple(wish.id for wish in self.wishes)

    @property
    def limits(self) -> tuple[int | None, ...]:
        """Bytes of each that may be used."""
        return tuple(wish.limit for wish in self.wishes or ())


def chosen_devices(names: Sequence[str] | None) -> DeviceWishes:
    """Return the devices wished for; "none" is the CPU alone. Raises UsageError for none and some, or one twice."""
    if not names:
        return DeviceWishes(None)
    if "none" in names and len(names) > 1:
        raise UsageError("--device none cannot be given with another --device")
    wishes = () if "none" in names else tuple(map(parse_device, names))
    ids = [wish.id for wish in wishes]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise UsageError(f"the device {twice[0]} is named twice", "name each once; --device none is the CPU")
    return DeviceWishes(wishes)


def constraints_of(
    ctx: int | None,
    gpu_layers: int | None,
    kv_type: str | None,
    threads: int | None,
    parallel: int | None,
    device: Sequence[str] | None,
    lora: Sequence[str] | None = None,
    speculate: str | None = None,
) -> Constraints:
    """Return what the user fixed about how the model runs."""
    devices, loras = chosen_devices(device), parse_loras(lora)
    found = Constraints(ctx, gpu_layers, kv_type, threads, parallel, devices.names, devices.limits, loras)
    return replace(found, n_draft_max=chosen_draft(speculate))


def chosen_draft(text: str | None) -> int | None:
    """Return how many tokens may be guessed at once, None where llmrun chooses; raises UsageError for anything else."""
    word = "auto" if text is None else text.lower()
    if word in ("auto", "off"):
        return None if word == "auto" else 0
    if not word.isascii() or not word.isdecimal() or not 1 <= int(word) <= MAX_DRAFT:
        must = f"must be auto, off, or tokens from 1 to {MAX_DRAFT}"
        raise UsageError(f"--speculate is {text!r}, and {must}", "left out, it is auto")
    return int(word)


def drafted(constraints: Constraints, draft: str | None) -> Constraints:
    """Return what the user fixed with a draft model, by a name that means the same in every folder.

    Raises UsageError for a name that is none, and where nothing may be guessed.
    """
    if draft is None:
        return constraints
    if constraints.n_draft_max == 0:
        raise UsageError("--draft guesses tokens, and --speculate off forbids that", "leave one of them out")
    if draft.lower() in (AUTO, MTP):
        return replace(constraints, draft=draft.lower())
    try:
        return replace(constraints, draft=lasting_reference(parse_reference(draft, hub_address())))
    except UsageError as error:
        raise UsageError(error.message, "--draft names a model as MODEL does; a path begins with / or ./") from error


def check_gpu_wishes(constraints: Constraints, wish: PlanWish) -> None:
    """Raise UsageError where a GPU is required and forbidden."""
    if wish.require_gpu and constraints.devices == ():
        raise UsageError("--require-gpu and --device none exclude each other")
    if wish.require_gpu and constraints.n_gpu_layers == 0:
        raise UsageError("--require-gpu and --gpu-layers 0 exclude each other")


def check_replay(constraints: Constraints, replay: SavedPlan | None) -> None:
    """Raise UsageError where a plan is to be run as it is, and otherwise; its devices have to be named again."""
    if replay is not None and replace(constraints, devices=None, device_limits=(), projector=None) != Constraints():
        others = "--ctx, --gpu-layers, --kv-type, --threads, --speculate, --draft and --lora"
        raise UsageError(f"a plan from --plan is run as it is, without {others}")


def plan_wish(
    prefer: str | None,
    *,
    allow_disk: bool = False,
    reserve: str | None = None,
    device_reserve: str | None = None,
    require_gpu: bool = False,
    source: Source | None = None,
) -> PlanWish:
    """Return what is wished of a plan; raises UsageError for what is no size, or too small to be meant."""
    return PlanWish(
        _preference(prefer),
        allow_disk,
        source,
        _reserve("--reserve", reserve),
        _reserve("--device-reserve", device_reserve),
        require_gpu,
    )


def _reserve(option: str, text: str | None) -> int | None:
    """Return how many bytes to leave free; fewer than a MiB are a slip, as in `--reserve 5`, and none are a wish."""
    if text is None:
        return None
    try:
        size = parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", f"for example {option} 1GiB") from error
    if 0 < size < _LEAST_RESERVE:
        meant = f"{text}GiB" if text.isdecimal() and len(text) < 4 else "1GiB"
        message = f"{option} {text} is {format_bytes(size)}, which is no amount of memory to leave free"
        raise UsageError(message, f"for example {option} {meant}")
    return size


def _preference(text: str | None) -> Prefer:
    if text is None:
        return "balanced"
    for known in PREFERENCES:
        if text.lower() == known:
            return known
    raise UsageError(f"--prefer knows {', '.join(PREFERENCES)}, not {text!r}")


def saved_plan(path: Path | None) -> SavedPlan | None:
    """Read a plan that was saved; raises NotFoundError for a file there is not, UsageError for one that is no plan."""
    if path is None:
        return None
    try:
        return parse_plan(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no plan {path}", "`llmrun plan MODEL --save FILE` writes one") from error
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read as a plan", "`llmrun plan MODEL --save FILE` writes one") from error


def grammar_wish(schema: str | None, grammar: Path | None, stop: Sequence[str] | None = None) -> Grammar | None:
    """Return what answers must look like; schema: a file, or the schema itself, which begins with {.

    Raises UsageError for both, for one that answers cannot be held to, and for --stop beside it, which would cut them;
    NotFoundError for a file there is not.
    """
    if schema is None and grammar is None:
        return None
    if schema is not None and grammar is not None:
        raise UsageError("--schema and --grammar cannot be given together")
    if stop:
        raise UsageError("--stop would cut answers that are to have a structure", "leave it out")
    from llmrun.structured.convert import gbnf_of
    from llmrun.structured.gbnf import check_grammar

    if schema is None:
        text = read_attachment(Path(str(grammar))).text
        check_grammar(text)
        return Grammar("gbnf", text)
    text = schema if schema.lstrip().startswith("{") else read_attachment(Path(schema)).text
    check_grammar(gbnf_of(text))
    return Grammar("json_schema", text)
