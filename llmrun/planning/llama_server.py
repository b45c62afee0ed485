"""Settings as the command line of llama.cpp's own server: the same memory and the same placement. Pure.

The flags' names and values are those of common/arg.cpp in llama.cpp 0c1e57098, inside llama-cpp-python 0.3.36:

    -m --rpc -dev -ngl -ts --n-cpu-moe -c -np --kv-unified --no-kv-unified -b -ub -ctk -ctv -fa --swa-full
    --no-kv-offload --load-mode --repack --no-repack --lora --lora-scaled --mmproj --mmproj-offload
    --no-mmproj-offload -md --spec-type --spec-draft-n-max -devd -ngld -ctkd -ctvd -t -tb --numa --fit
    --cache-ram --ctx-checkpoints
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from llmrun.memory.projector import device_of_projector
from llmrun.planning.drafts import draft_settings
from llmrun.settings import MTP, RunSettings, choose_n_ctx

# arg.cpp, "-lm"; its --mlock, --no-mmap and --direct-io are gone
_LOAD_MODES = {
    "auto": "auto",
    "none": "none",
    "mmap": "mmap",
    "mlock": "mlock",
    "mmap_mlock": "mmap+mlock",
    "direct_io": "dio",
}
_FLASH_ATTN = {None: "auto", True: "on", False: "off"}


def llama_server_command(model_path: str, settings: RunSettings, n_ctx_train: int = 0) -> tuple[str, ...]:
    """Return the command and its arguments, for `shlex.join` or a process.

    n_ctx_train: the model's, for settings that name no context. n_outputs_max has no flag: the server takes what its
    slots need; nor has an affinity to cores: it binds threads to processors by number, two of which may be one core. A
    server that lends several devices is taken to lend those up to the last that the settings name.
    """
    return (
        "llama-server",
        *("-m", model_path),
        *_device_flags(settings),
        *_context_flags(settings, n_ctx_train),
        *("--load-mode", _LOAD_MODES[settings.load_mode]),
        "--repack" if settings.repack else "--no-repack",
        *_lora_flags(settings),
        *_projector_flags(settings),
        *_draft_flags(settings),
        *("-t", str(settings.n_threads), "-tb", str(settings.n_threads_batch)),
        *(("--numa", "distribute") if settings.affinity == "nodes" else ()),
        # else it changes what is not said, keeps answered prompts in up to 8 GiB of RAM, and states of each besides
        *("--fit", "off", "--cache-ram", "0", "--ctx-checkpoints", "0"),
    )


def _lora_flags(settings: RunSettings) -> Iterator[str]:
    """One option for each adapter: a list in one would end at a comma in a path, which quotes hold together."""
    for lora in settings.loras:
        if lora.scale == 1:
            yield from ("--lora", _csv_field(lora.path))
        else:
            yield from ("--lora-scaled", _csv_field(f"{lora.path}:{_plain(lora.scale)}"))


def _projector_flags(settings: RunSettings) -> tuple[str, ...]:
    if settings.projector is None:
        return ()
    on_host = device_of_projector(settings.devices or (), settings.n_gpu_layers) is None
    return ("--mmproj", settings.projector, "--no-mmproj-offload" if on_host else "--mmproj-offload")


def _draft_flags(settings: RunSettings) -> tuple[str, ...]:
    """What is not said the server takes of the model: a draft for each of its slots, which share the context."""
    if settings.draft is None:
        return ()
    if settings.draft == MTP:
        return ("--spec-type", "draft-mtp", "--spec-draft-n-max", str(settings.n_draft_max))
    draft, names = draft_settings(settings), settings.devices or ()
    device = _ggml_names(names, _endpoints(names))[:1] if draft.devices else ("none",)
    return (
        # a draft that is only loaded guesses nothing (speculative.cpp, common_speculative_init)
        *("-md", settings.draft, "--spec-type", "draft-simple", "--spec-draft-n-max", str(settings.n_draft_max)),
        *("-devd", *device, "-ngld", "all" if draft.devices else "0", "-ctkd", draft.type_k, "-ctvd", draft.type_v),
    )


def _csv_field(text: str) -> str:
    """Return a text as arg.cpp's parse_csv_row reads one back."""
    if not set(text) & set(',"'):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _device_flags(settings: RunSettings) -> tuple[str, ...]:
    """--rpc before -dev, since arguments are followed in their order and a device is named when it is there."""
    names = settings.devices
    flags: list[str] = []
    if names is not None:
        endpoints = _endpoints(names)
        flags += ["--rpc", ",".join(endpoints)] if endpoints else []
        flags += ["-dev", ",".join(_ggml_names(names, endpoints)) or "none"]
    flags += ["-ngl", "all" if settings.n_gpu_layers is None else str(settings.n_gpu_layers)]
    if settings.tensor_split is not None:
        flags += ["-ts", ",".join(_plain(part) for part in settings.tensor_split)]
    if settings.cpu_experts:
        flags += ["--n-cpu-moe", str(settings.cpu_experts)]
    return tuple(flags)


def _endpoints(names: Iterable[str]) -> Mapping[str, int]:
    """Return the servers in order, each with how many devices it lends, as far as the names tell."""
    found: dict[str, int] = {}
    for name in names:
        if name.startswith("rpc:"):
            endpoint, number = _split_rpc(name)
            found[endpoint] = max(found.get(endpoint, 0), number + 1)
    return found


def _ggml_names(names: Sequence[str], endpoints: Mapping[str, int]) -> tuple[str, ...]:
    """Return the devices' names as the server knows them: RPC0, RPC1 ... are counted over all servers.

    ggml-rpc.cpp, ggml_backend_rpc_add_server: dev_id.
    """
    first, n_before = {}, 0
    for endpoint, count in endpoints.items():
        first[endpoint], n_before = n_before, n_before + count
    found = []
    for name in names:
        if name.startswith("rpc:"):
            endpoint, number = _split_rpc(name)
            name = f"RPC{first[endpoint] + number}"
        found.append(name)
    return tuple(found)


def _split_rpc(name: str) -> tuple[str, int]:
    """Return the server and the number of its device: "rpc:10.0.0.2:50052/1" is the second one of 10.0.0.2:50052."""
    endpoint, _, number = name.removeprefix("rpc:").partition("/")
    return endpoint, int(number or 0)


def _context_flags(settings: RunSettings, n_ctx_train: int) -> tuple[str, ...]:
    return (
        *("-c", str(choose_n_ctx(settings.n_ctx, n_ctx_train)), "-np", str(settings.n_seq_max)),
        "--kv-unified" if settings.kv_unified else "--no-kv-unified",
        *("-b", str(settings.n_batch), "-ub", str(settings.n_ubatch)),
        *("-ctk", settings.type_k, "-ctv", settings.type_v, "-fa", _FLASH_ATTN[settings.flash_attn]),
        *(("--swa-full",) if settings.swa_full else ()),
        *(() if settings.offload_kqv else ("--no-kv-offload",)),
    )


def _plain(part: float) -> str:
    """Return a number that std::stof reads back to the same float: 12.0 is "12"."""
    return str(int(part)) if part == int(part) else repr(part)
