"""Our arithmetic against what llama.cpp printed on other people's machines: `scripts/accuracy logs`.

Judges KV cache and recurrent state, to the printed digit; knows neither how a row is read nor how memory is reckoned.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader
from llmrun.memory.context import ContextShape
from llmrun.memory.shape import ModelShape, model_shape
from scripts.measuring import memories
from scripts.measuring.headers import Unjudged, architecture_of, has_state_sizes, header_of
from scripts.measuring.memories import Cache, Types
from scripts.measuring.rows import LoadLog, PrintedCache, read_rows

LOGS = Path(__file__).parents[2] / "tests/golden/load_logs.jsonl"
_MIB = 1 << 20
_NO_CACHE = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "eurobert"})


@dataclass(frozen=True, slots=True)
class Figure:
    """One printed figure beside ours, both as text of as many digits."""

    name: str
    expected: str
    printed: str

    @property
    def exact(self) -> bool:
        """Whether they are the same."""
        return self.expected == self.printed


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out for a row's KV cache, or its state. why_not: of what could not be judged."""

    row: str
    part: str
    architecture: str
    figures: tuple[Figure, ...]
    why_not: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether any figure could be compared."""
        return bool(self.figures)

    @property
    def exact(self) -> bool:
        """Whether every figure that could be compared is the same."""
        return all(figure.exact for figure in self.figures)

    def line(self) -> str:
        """The row as a line of a table: the first figure that is off, else the first."""
        start = f"{self.row[:36]:<36} {self.part:<5} {self.architecture[:12]:<12} "
        if not self.figures:
            return start + f"not judged: {', '.join(self.why_not)}"
        largest = max(self.figures, key=lambda figure: ("." in figure.expected, float(figure.expected)))
        shown = next((figure for figure in self.figures if not figure.exact), largest)
        names = ", ".join(dict.fromkeys(figure.name.rpartition(" ")[2] for figure in self.figures))
        verdict = "exact" if self.exact else f"OFF: {shown.name}"
        return start + f"{shown.expected:>10} {shown.printed:>10}  {verdict:<12} {names}"


@dataclass(slots=True)
class _Findings:
    """Figures and reasons of one part of a row, while they are collected."""

    quote: str
    figures: list[Figure]
    why_not: list[str]

    def compare(self, name: str, size: int, printed: float | None) -> None:
        """Compare bytes with MiB; what is not printed is passed over."""
        if printed is not None:
            digits = printed_digits(printed, self.quote)
            self.figures.append(Figure(name, as_printed(size, digits), f"{printed:.{digits}f}"))

    def compare_sum(self, name: str, size: int, printed: Iterable[float]) -> None:
        """Compare bytes with a sum of figures each of which was rounded."""
        parts = list(printed)
        if len(parts) > 1 and abs(size / _MIB - sum(parts)) <= 0.005 * len(parts) + 1e-6:
            size = round(sum(parts) * _MIB)
        if parts:
            self.compare(name, size, sum(parts))


def as_printed(size: int, digits: int = 2) -> str:
    """Return bytes in MiB as llama.cpp prints them: a float of 32 bits, its last digit rounded."""
    rounded = struct.unpack("<f", struct.pack("<f", float(min(size, 1 << 120))))[0]
    return f"{rounded / _MIB:.{digits}f}"


def printed_digits(value: float, quote: str) -> int:
    """Return the digits after the point with which the quote has the value: 2 is llama.cpp's, people write fewer."""
    found = [text.partition(".")[2] for text in re.findall(r"\d+(?:\.\d+)?(?= ?MiB)", quote) if float(text) == value]
    return max(map(len, found), default=2)


def judge(log: LoadLog) -> list[Judgement]:
    """Return what comes out for the row's KV cache and state, one for each that it prints; one at least."""
    name, mark = log.architecture or "?", "" if log.architecture else "?"  # a guess is marked
    parts = ([] if _no_kv(log) and log.state else ["kv"]) + (["state"] if log.state else [])
    try:
        name = architecture_of(log) + mark
        header = header_of(log)
        shape = model_shape(header)
    except (Unjudged, GGUFError) as reason:
        return [Judgement(log.id, part, name, (), (_reason(log, reason),)) for part in parts]
    judgements = []
    for part in parts:
        findings = _Findings(log.quote, [], [])
        try:
            if part == "kv":
                _judge_kv(log, shape, findings)
            else:
                _judge_state(log, header, shape, findings)
        except (Unjudged, GGUFError) as reason:
            findings.why_not.append(str(reason))
        judgements.append(Judgement(log.id, part, name, tuple(findings.figures), tuple(findings.why_not)))
    return judgements


def _no_kv(log: LoadLog) -> bool:
    return not log.caches and not log.devices and not log.cells


def _reason(log: LoadLog, reason: Exception) -> str:
    if log.architecture in _NO_CACHE:
        return "encoder: the installed engine keeps no cache for it, older builds did"
    return str(reason)


def _judge_kv(log: LoadLog, shape: ModelShape, findings: _Findings) -> None:
    if _no_kv(log):
        raise Unjudged("no KV cache printed")
    context = memories.context_of(log, shape)
    windows = _judge_windows(log, shape, context, findings)
    types = memories.types_of(log, shape)
    found = memories.caches_of(shape, context, types)
    if not found:
        raise Unjudged("a KV cache is printed for an architecture without one: older builds kept the state in it")
    for cache, printed in _matched(log, shape, context, found):
        if cache.name != "SWA" or windows:
            _judge_cache(cache, printed, shape, types, findings)
    if types.flash_attn is None or findings.why_not:
        return
    total = sum(memories.kv_by_pool(shape, context, types, memories.on_host(shape)))
    if not log.caches and log.devices_complete:
        findings.compare_sum("total", total, log.devices.values())
    _judge_pools(log, shape, context, types, findings)


def _judge_windows(log: LoadLog, shape: ModelShape, context: ContextShape, findings: _Findings) -> bool:
    """Compare the cells of windows, which need no types; return whether the rest of such layers can be judged."""
    if not any(layer.cache is not None and layer.cache.windowed for layer in shape.layers):
        return True
    trusted = _trusts_windows(log, shape, context, findings)
    printed = memories.window_cells(log)
    if trusted and printed is not None:
        findings.figures.append(Figure("SWA cells", str(context.window_cells(shape.n_swa)), str(printed)))
    return trusted


def _trusts_windows(log: LoadLog, shape: ModelShape, context: ContextShape, findings: _Findings) -> bool:
    """Whether the caches of windows can be judged: not without the sequences, nor where the build pads otherwise."""
    if context.swa_full:
        return True
    if memories.pads_windows_to_32(log, shape, context):
        findings.why_not.append("windows: this build pads them to 32 cells, the installed engine to 256")
        return False
    if log.n_seq_max is None and context.kv_unified:
        findings.why_not.append("windows: sequences not printed")
        return False
    return True


def _matched(
    log: LoadLog, shape: ModelShape, context: ContextShape, found: Sequence[Cache]
) -> list[tuple[Cache, PrintedCache]]:
    """Pair our caches with the printed ones: they come in the same order, unless some were not quoted."""
    if len(found) > 1 and len(log.caches) == 1:
        printed = log.caches[0]
        if context.swa_full and printed.layers in {None, shape.n_layer, sum(cache.layers for cache in found)}:
            return [(memories.merged(found), printed)]
        alike = [c for c in found if c.cells == printed.cells] or [c for c in found if c.layers == printed.layers]
        return [((alike or found)[0], printed)]
    n_draft = sum(layer.cache is None and not layer.state for layer in shape.layers)
    own = [p for p in log.caches if p.layers is None or p.layers > n_draft or len(log.caches) <= len(found)]
    nothing = Cache("unexpected", 0, 0, 0, 0)
    return [(found[i] if i < len(found) else nothing, printed) for i, printed in enumerate(own)]


def _judge_cache(cache: Cache, printed: PrintedCache, shape: ModelShape, types: Types, findings: _Findings) -> None:
    if printed.layers is not None and printed.layers != shape.n_layer:  # older builds print all, with a cache or not
        findings.figures.append(Figure(f"{cache.name} layers", str(cache.layers), str(printed.layers)))
    if printed.cells is not None:
        findings.figures.append(Figure(f"{cache.name} cells", str(cache.cells), str(printed.cells)))
    findings.compare(f"{cache.name} K", cache.k, printed.k)
    if types.flash_attn is None:
        findings.why_not.append("V: whether flash attention was on is not printed, and its width depends on that")
        return
    if cache.k and not cache.v and printed.v:
        findings.why_not.append("V: this build kept one beside the latent or the indexer's keys")
        return
    findings.compare(f"{cache.name} V", cache.v, printed.v)
    findings.compare(cache.name, cache.k + cache.v, printed.size)


def _judge_pools(log: LoadLog, shape: ModelShape, context: ContextShape, types: Types, findings: _Findings) -> None:
    """Compare what lies on the host and on the one device, if the buffers are all printed and nothing is padded."""
    placement = memories.single_device(log, shape, list(log.devices))
    if placement is None or not log.devices_complete or len(log.devices) != 2:
        return
    host, device = memories.kv_by_pool(shape, context, types, placement)
    for name, printed in log.devices.items():
        findings.compare(name, host if name.startswith("CPU") else device, printed)


def _judge_state(log: LoadLog, header: GGUFHeader, shape: ModelShape, findings: _Findings) -> None:
    state = log.state
    assert state is not None
    if not has_state_sizes(log):
        raise Unjudged("sizes of the recurrent state not known")
    n_seq = state.seqs or state.cells or log.n_seq_max
    if not n_seq:
        raise Unjudged("sequences not printed")
    drafts = state.rs_seq
    if drafts is None and ("mtp" in log.model.lower() or "nextn_predict_layers" in header.metadata):
        raise Unjudged("states for drafts not printed")
    pools = memories.state_by_pool(shape, n_seq, drafts or 0, memories.on_host(shape))
    proper = memories.state_by_pool(memories.without_convolution(header), n_seq, drafts or 0, memories.on_host(shape))
    ngram = header.arch("ple.layers") in header.metadata
    findings.compare("R", sum(pools) - sum(proper), None if ngram else state.r)
    findings.compare("S", sum(proper), state.s)
    if state.p and not ngram:
        findings.why_not.append("total: the row does not say what its P is made of")
        return
    findings.compare("total", sum(pools), state.size)
    placement = memories.single_device(log, shape, list(log.state_devices))
    if placement is not None and len(log.state_devices) == 2:
        host, device = memories.state_by_pool(shape, n_seq, drafts or 0, placement)
        for name, printed in log.state_devices.items():
            findings.compare(name, host if name.startswith("CPU") else device, printed)


def judge_text(text: str) -> list[Judgement]:
    """Return what comes out for every row of a file of logs; a line that is no row is one that cannot be judged."""
    found: list[Judgement] = []
    for row in read_rows(text):
        found += [Judgement(row, "row", "?", (), ("no JSON object",))] if isinstance(row, str) else judge(row)
    return found


def score(judgements: Iterable[Judgement], part: str) -> tuple[int, int]:
    """Return how many judged rows are exact in this part, and how many were judged."""
    judged = [judgement for judgement in judgements if judgement.part == part and judgement.judged]
    return sum(judgement.exact for judgement in judged), len(judged)


def reasons(judgements: Iterable[Judgement]) -> Mapping[str, int]:
    """Return why rows, or parts of them, could not be judged, most frequent first."""
    counted = Counter(f"{judgement.part}: {why}" for judgement in judgements for why in set(judgement.why_not))
    return dict(counted.most_common())


def report(judgements: Sequence[Judgement]) -> str:
    """Return the table, the counted reasons, and the score in the last line."""
    columns = f"{'row':<36} {'part':<5} {'architecture':<12} {'expected':>10} {'printed':>10}  {'verdict':<12}"
    why = [f"{count:>4} {reason}" for reason, count in reasons(judgements).items()]
    parts = [f"{part} {exact}/{judged}" for part in ("kv", "state") for exact, judged in [score(judgements, part)]]
    return "\n".join(
        [
            f"{columns} what was judged",
            *(j.line() for j in judgements),
            "",
            "not judged, or not wholly:",
            *why,
            "",
            ", ".join(parts),
        ]
    )


def show_logs(options: argparse.Namespace) -> bool:
    """Print the report on a file of logs; return whether every judged row is exact."""
    try:
        text = options.logs.read_text("utf-8", "replace")
    except OSError as error:
        print(f"the logs cannot be read: {error}", file=sys.stderr)
        return False
    judgements = judge_text(text)
    print(report(judgements))
    return all(judgement.exact for judgement in judgements)
