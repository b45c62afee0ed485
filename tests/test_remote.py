"""A model on the Hub: what is read of it, what is only like, and when a refusal may be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from llmrun.errors import GGUFError, InsufficientMemoryError
from llmrun.gguf.encode import build_header
from llmrun.gguf.header import Entry, GGUFHeader, ValueType
from llmrun.hardware.host_memory import HostMemory
from llmrun.hardware.threads import Threads
from llmrun.planning.plan import PlanWish
from llmrun.remote import RemoteModel
from llmrun.settings import Constraints
from llmrun.settling import Stockroom, Wishes, settle
from llmrun.site import Site
from llmrun.variant import ModelFile, RemoteFile, Variant
from scripts.architectures.quants import QUANTS, quantized
from scripts.architectures.shapes import MODELS

HEADERS = {quant: quantized(MODELS["qwen3-8b"], quant) for quant in QUANTS}
GIB = 1 << 30


class Library:
    """Headers by the names of their files, and which were asked for; kept: those that cost nothing."""

    def __init__(self, headers: dict[str, GGUFHeader], kept: Sequence[str] = ()) -> None:
        self.headers = headers
        self.known = set(kept)
        self.read_names: list[str] = []

    def read(self, files: Sequence[ModelFile]) -> GGUFHeader:
        self.read_names.append(files[0].name)
        return self.headers[files[0].name]

    def kept(self, files: Sequence[ModelFile]) -> GGUFHeader | None:
        return self.headers[files[0].name] if files[0].name in self.known else None


def variants(headers: dict[str, GGUFHeader]) -> list[Variant]:
    return [
        Variant(name, (ModelFile(name, header.file_size, RemoteFile("acme/x-GGUF", "0" * 40, name)),))
        for name, header in headers.items()
    ]


def site(memory: int) -> Site:
    host = HostMemory(total=memory, available=memory)
    return Site(host, Threads(4, 4, "4 physical cores: 4 threads"), here=False)


def planned(model: RemoteModel, memory: int) -> str:
    wishes = Wishes(Constraints(), PlanWish())
    return settle(model, Stockroom(site(memory), None), wishes).plan.quant


@pytest.mark.parametrize("memory", [4, 6, 8, 12, 24, 64])
def test_what_is_planned_was_read_and_is_what_all_headers_would_say(memory: int) -> None:
    library = Library(HEADERS)
    model = RemoteModel(variants(HEADERS), library, memory * GIB)
    chosen = planned(model, memory * GIB)
    assert model.is_read(chosen)
    assert len(library.read_names) <= 2
    everything = RemoteModel(variants(HEADERS), Library(HEADERS, kept=QUANTS), memory * GIB)
    assert planned(everything, memory * GIB) == chosen


def test_nothing_is_refused_before_the_smallest_was_read() -> None:
    library = Library(HEADERS, kept=("Q8_0",))
    model = RemoteModel(variants(HEADERS), library, GIB)
    with pytest.raises(InsufficientMemoryError):
        planned(model, GIB)
    smallest = min(HEADERS, key=lambda quant: HEADERS[quant].file_size)
    assert library.read_names == [smallest]


@pytest.mark.parametrize("kept", [(), ("Q8_0",)])
def test_a_model_that_writes_no_text_is_refused_however_its_header_came(kept: tuple[str, ...]) -> None:
    metadata = {
        "general.architecture": Entry(ValueType.STRING, "bert"),
        "bert.pooling_type": Entry(ValueType.UINT32, 1),
    }
    bert = {"Q8_0": build_header(3, metadata, HEADERS["Q8_0"].tensors)}
    with pytest.raises(GGUFError, match="Q8_0 cannot chat: this is a model for embeddings"):
        RemoteModel(variants(bert), Library(bert, kept), GIB)


def test_what_is_to_be_read_from_a_disk_is_planned_before_it_lies_there() -> None:
    """On this machine, whose storage is measured by the model's own file: there is none yet."""
    model = RemoteModel(variants(HEADERS), Library(HEADERS, kept=QUANTS), GIB)
    room = Stockroom(replace(site(GIB), here=True), None)
    plan = settle(model, room, Wishes(Constraints(), PlanWish(allow_disk=True))).plan
    assert plan.from_disk
    assert plan.disk_speed is None
