"""Every command line option, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmrun.settings import KV_TYPES, MAX_N_CTX, MAX_SEQUENCES, MAX_THREADS

_RUNNING = "How the model runs"
_OUTPUT = "Output"
_MODEL_SHAPE = "The model"


def _kv_type(value: str | None) -> str | None:
    if value is not None and value.lower() not in KV_TYPES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(KV_TYPES)}")
    return None if value is None else value.lower()


def _model(incomplete: str) -> list[str]:
    from llmrun.cli.completing import complete_model

    return complete_model(incomplete)


def _kept(incomplete: str) -> list[str]:
    from llmrun.cli.completing import complete_kept

    return complete_kept(incomplete)


def _preference(incomplete: str) -> list[str]:
    from llmrun.planning.policy import PREFERENCES

    return _one_of(*PREFERENCES)(incomplete)


def _one_of(*values: str) -> Callable[[str], list[str]]:
    """What completes one of some values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Argument(
        help="guide (embedded), a short name (qwen3:8b), owner/repo[:quant] of the Hub, or the path of a GGUF file.",
        show_default=True,
        autocompletion=_model,
    ),
]
ChatModel = Annotated[
    str | None,
    typer.Argument(
        help="guide (embedded), a short name (qwen3:8b), owner/repo[:quant] of the Hub, or the path of a GGUF file. "
        "(default: a choice of what runs well here, or guide)",
        show_default=False,
        autocompletion=_model,
    ),
]
Words = Annotated[list[str], typer.Argument(help="What the repository's name has in it.", show_default=False)]
Kept = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="owner/repo[:QUANT], or another name that `llmrun list` shows.", autocompletion=_kept
    ),
]
Prompt = Annotated[
    str | None,
    typer.Argument(help="What to ask; text piped in goes before it, or takes its place.", show_default=False),
]

Ctx = Annotated[
    int | None,
    typer.Option(
        "--ctx",
        "-c",
        min=1,
        max=MAX_N_CTX,
        metavar="TOKENS",
        help="Context length. (default: by the memory there is)",
        rich_help_panel=_RUNNING,
    ),
]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        "--gpu-layers",
        "-ngl",
        min=0,
        metavar="N",
        help="Layers on the GPU, output included. (default: all that fit)",
        rich_help_panel=_RUNNING,
    ),
]
KVType = Annotated[
    str | None,
    typer.Option(
        "--kv-type",
        callback=_kv_type,
        metavar="TYPE",
        autocompletion=_one_of(*KV_TYPES),
        help="Type of the KV cache: f16, q8_0, q4_0, ... (default: f16 if it fits)",
        rich_help_panel=_RUNNING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "-t",
        min=1,
        max=MAX_THREADS,
        metavar="N",
        help="CPU threads. (default: physical cores that are not busy)",
        rich_help_panel=_RUNNING,
    ),
]
Speculate = Annotated[
    str | None,
    typer.Option(
        "--speculate",
        metavar="auto|off|N",
        autocompletion=_one_of("auto", "off"),
        help="Guess up to N tokens from the conversation, verified in one step while that is faster. (default: auto)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="MODEL",
        help="A smaller model of the same family that guesses for this one, while one answer is written alone; auto is "
        "the one that comes with it, mtp the model's own layers for that. (default: none)",
        show_default=False,
        rich_help_panel=_RUNNING,
        autocompletion=_model,
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        min=1,
        max=MAX_SEQUENCES,
        metavar="N",
        help="Conversations at once, each with the whole context. (default: 1)",
        rich_help_panel=_RUNNING,
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME",
        autocompletion=_one_of("none"),
        help="Use only this device (CUDA0, rpc:HOST:PORT; none: the CPU), or so much of it (CUDA0=6GiB); can be given "
        "many times. (default: all)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        "--prefer",
        metavar="WHAT",
        autocompletion=_preference,
        help="balanced, quality, speed or context. (default: balanced)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Run a plan exactly as `llmrun plan --save` wrote it.",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="PATH[:SCALE]",
        help="Run the model with a LoRA adapter, a GGUF file made for it; can be given many times.",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Projector = Annotated[
    str | None,
    typer.Option(
        "--projector",
        metavar="FILE",
        help="Let the model see images through this mmproj file; auto is its own. (default: auto with --image)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="PATH",
        help="Show the model an image, with the first message; can be given many times.",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Reserve = Annotated[
    str | None,
    typer.Option(
        "--reserve",
        metavar="SIZE",
        help="RAM to leave free. (default: 5 %, at least 512 MiB)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
DeviceReserve = Annotated[
    str | None,
    typer.Option(
        "--device-reserve",
        metavar="SIZE",
        help="Memory to leave free on each device. (default: 512MiB)",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
AllowDisk = Annotated[
    bool,
    typer.Option(
        "--allow-disk",
        help="Run a model larger than the memory, reading it from disk again and again.",
        rich_help_panel=_RUNNING,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="MACHINE",
        help="Plan for another machine: rtx4090+64GiB, ram=16GiB,vram=8GiB, or what `llmrun hardware --json` wrote "
        "there.",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use only what is here; ask nobody.", rich_help_panel=_RUNNING)
]
NoServer = Annotated[
    bool,
    typer.Option(
        "--no-server", help="Load the model here, though a running `llmrun serve` has it.", rich_help_panel=_RUNNING
    ),
]
LocalDir = Annotated[
    Path | None,
    typer.Option(
        "--local-dir",
        metavar="FOLDER",
        help="Where the files go. (default: the Hugging Face cache)",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=100, metavar="N", help="Show at most N.", rich_help_panel=_OUTPUT)
]
EveryHeader = Annotated[
    bool, typer.Option("--exact", help="Read the header of every quantization.", rich_help_panel=_OUTPUT)
]
RequireGpu = Annotated[
    bool, typer.Option("--require-gpu", help="Fail rather than run on the CPU alone.", rich_help_panel=_RUNNING)
]

Json = Annotated[bool, typer.Option("--json", help="Print each answer as one line of JSON.", rich_help_panel=_OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk, only answers.", rich_help_panel=_OUTPUT)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the engine's log and where time goes.", rich_help_panel=_OUTPUT)
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Print answers as they come, not as Markdown.", rich_help_panel=_OUTPUT)
]
ShowThinking = Annotated[
    Literal["show", "fold", "hide"],
    typer.Option(
        "--show-thinking",
        metavar="HOW",
        help="What a model thinks before it answers: show it, fold it into a line, or hide it.",
        rich_help_panel=_OUTPUT,
    ),
]
PlainJson = Annotated[bool, typer.Option("--json", help="Print one object of JSON.", rich_help_panel=_OUTPUT)]
Exact = Annotated[
    bool,
    typer.Option("--exact", help="Ask llama.cpp, or fail. (default: where it can be asked)", rich_help_panel=_OUTPUT),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Write the plan, for --plan of chat and run.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Emit = Annotated[
    str | None,
    typer.Option(
        "--emit",
        metavar="PROGRAM",
        autocompletion=_one_of("llama-server"),
        help="Print the command line of llama-server that runs it alike.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw it too, as FILE.png or FILE.svg; needs matplotlib.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Fast = Annotated[bool, typer.Option("--fast", help="Only our own arithmetic.", rich_help_panel=_OUTPUT)]


def _shape_option(option: str, metavar: str, text: str) -> Any:
    return typer.Option(option, min=1, metavar=metavar, help=text, rich_help_panel=_MODEL_SHAPE)


Params = Annotated[
    str, typer.Option("--params", metavar="COUNT", help="Parameters: 7b, 1.5B, 350m.", rich_help_panel=_MODEL_SHAPE)
]
Bits = Annotated[
    str,
    typer.Option(
        "--bits", metavar="BITS", help="Bits per weight, or a quantization: 4, Q4_K_M.", rich_help_panel=_MODEL_SHAPE
    ),
]
Seq = Annotated[int, _shape_option("--seq", "TOKENS", "Tokens of one sequence.")]
Batch = Annotated[int, _shape_option("--batch", "N", "Sequences at a time.")]
Layers = Annotated[int | None, _shape_option("--layers", "N", "Layers. (default: as a known model of the size)")]
Heads = Annotated[int | None, _shape_option("--heads", "N", "Attention heads. (default: likewise)")]
KVHeads = Annotated[int | None, _shape_option("--kv-heads", "N", "Heads of the KV cache. (default: likewise)")]
Hidden = Annotated[int | None, _shape_option("--hidden", "N", "Width of a token's vector. (default: likewise)")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="all, weights, activations or inference.",
        autocompletion=_one_of("all", "weights", "activations", "inference"),
        rich_help_panel=_OUTPUT,
    ),
]

KeptOrNone = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A name that `llmrun list` shows.", autocompletion=_kept, show_default=False
    ),
]
Unfinished = Annotated[
    bool, typer.Option("--unfinished", help="Remove only what is left of downloads that were not finished.")
]
YesRemove = Annotated[bool, typer.Option("--yes", "-y", help="Remove it without asking.")]
