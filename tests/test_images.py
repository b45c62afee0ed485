"""Images: looked at before anything is loaded, counted with what sees them, and shown to a model that really runs.

No vision model is small enough to be kept here: projectors and models have random weights, so that what they say of an
image is noise; that it depends on the image, and on nothing else, is not.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, Usage
from llmrun.errors import ContextOverflowError, EngineError, GGUFError, NotFoundError, UsageError
from llmrun.gguf.encode import encode_header, without_arrays
from llmrun.gguf.projector import Projector, check_projector, parse_projector
from llmrun.gguf.source import read_header
from llmrun.memory.engine_memory import ProjectorMemory
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.projector import (
    device_of_projector,
    estimate_projector,
    with_largest_image,
    with_projector,
)
from llmrun.message import Message
from llmrun.projectors import choose_projector, projectors_beside
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.variant import ModelFile
from llmrun.worker.slot import before_image
from scripts.synthetic import LETTERS, Shape, write_model
from tests.conftest import ONE_THREAD, figures
from tests.vision_files import Eye, png, write_projector, write_qwen2vl

Run = Callable[..., subprocess.CompletedProcess[str]]
SEEING = replace(ONE_THREAD, n_ctx=1024, devices=())
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its projector, as people keep them, and two images."""
    folder = tmp_path_factory.mktemp("vision")
    write_model(folder / "seer-F16.gguf", Shape(tied=False), writes=LETTERS)
    write_projector(folder / "mmproj-seer-F16.gguf")
    (folder / "a.png").write_bytes(png(100, 80))
    (folder / "b.png").write_bytes(png(100, 80, seed=1))
    return folder


@pytest.fixture(scope="module")
def seer(folder: Path) -> Iterator[Engine]:
    with Engine() as engine:
        info = engine.load(folder / "seer-F16.gguf", replace(SEEING, projector=str(folder / "mmproj-seer-F16.gguf")))
        assert info.vision
        yield engine


def answered(engine: Engine, *messages: Message) -> tuple[str, Usage]:
    parts = [part for part in engine.answer(Generate(messages, GREEDY, max_tokens=8)) if isinstance(part, Chunk)]
    usage = parts[-1].usage
    assert usage is not None
    return "".join(part.text for part in parts), usage


def user(text: str, *images: Path) -> Message:
    return Message("user", text, images=tuple(map(str, images)))


# ---- projectors


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"has_vision_encoder": False}, "only for sound"),
        ({"image_size": 0}, "images of 0 pixels in patches of 14"),
        ({"patch_size": 0}, "in patches of 0"),
        ({"patch_size": 57}, "in patches of 57"),
        ({"attention.head_count": 0}, "attention.head_count of 0"),
        ({"embedding_length": 1 << 31}, "embedding_length of"),
    ],
)
def test_a_projector_llama_cpp_would_die_of_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=reason):
        parse_projector(read_header(write_projector(tmp_path / "p.gguf", **options)))


def test_a_model_is_no_projector(tiny_model: Path) -> None:
    with pytest.raises(GGUFError, match="it is a model, not a projector"):
        parse_projector(read_header(tiny_model))


def test_a_projector_has_the_width_of_its_model(tmp_path: Path, tiny_model: Path) -> None:
    base = read_header(tiny_model)
    check_projector(parse_projector(read_header(write_projector(tmp_path / "p.gguf"))), base)
    legacy = write_projector(tmp_path / "l.gguf", projection_dim=768)
    check_projector(parse_projector(read_header(legacy)), base)
    other = write_projector(tmp_path / "o.gguf", Eye(n_text=320))
    with pytest.raises(GGUFError, match="embeddings of 320, and these are of 256"):
        check_projector(parse_projector(read_header(other)), base)


def test_an_image_is_so_many_tokens(tmp_path: Path) -> None:
    """16 patches with LLaVA's, a quarter for gemma3 with a scale of 2, which sees an image only as a whole."""
    kinds = ("mlp", "gemma3", "qwen2vl_merger")
    found = [parse_projector(read_header(write_projector(tmp_path / "p.gguf", Eye(kind)))) for kind in kinds]
    assert [(one.n_tokens, one.n_batch, one.limit) for one in found] == [(16, 0, None), (4, 4, None), (2116, 0, 2116)]


def test_room_is_planned_for_the_largest_image_and_not_for_the_first(tmp_path: Path) -> None:
    """Pixtral's largest has four times the tokens that llama.cpp makes room for when it loads."""
    pixtral = parse_projector(read_header(write_projector(tmp_path / "p.gguf", projector_type="pixtral")))
    told = ProjectorMemory(0, pixtral.size + 1000)
    assert with_largest_image(pixtral, told) == ProjectorMemory(0, pixtral.size + 4000)
    mlp = parse_projector(read_header(write_projector(tmp_path / "m.gguf")))
    assert with_largest_image(mlp, told) == told


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-F32.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        (["x-mmproj-Q8_0.gguf", "x-mmproj-F32.gguf", "x-mmproj-Q4_0.gguf"], "x-mmproj-Q8_0.gguf"),
        (["mmproj.gguf"], "mmproj.gguf"),
        ([], None),
    ],
)
def test_half_precision_is_taken_where_there_is_a_choice(names: Sequence[str], chosen: str | None) -> None:
    found = choose_projector([ModelFile(name, 1, Path(name)) for name in names])
    assert (found and found.name) == chosen


def test_projectors_are_found_beside_a_model(folder: Path) -> None:
    assert [file.name for file in projectors_beside(folder / "seer-F16.gguf")] == ["mmproj-seer-F16.gguf"]
    assert projectors_beside(folder) == projectors_beside(folder / "seer-F16.gguf")


# ---- counted


def asked(path: Path) -> tuple[Projector, ProjectorMemory]:
    """What the engine says of a projector without its weights."""
    projector = parse_projector(read_header(path))
    short = without_arrays(projector.header)
    with Engine() as engine:
        return projector, engine.ask_projector(encode_header(short), short.file_size, SEEING)


@pytest.mark.differential
@pytest.mark.parametrize(
    "eye",
    [
        Eye(),
        Eye("gemma3"),
        Eye("qwen2vl_merger"),
        Eye("mlp", 256, 1024, 4096, 2, 16, 336),
        Eye("mlp", 256, 768, 3072, 1, 12, 224, 16),
    ],
    ids=["mlp", "gemma3", "qwen2vl", "clip-large", "clip-base"],
)
def test_what_a_projector_takes_is_known_without_its_weights(eye: Eye, tmp_path: Path) -> None:
    """The weights to the byte by the header; room to compute as a load prints it; arithmetic is never less."""
    path = write_projector(tmp_path / "mmproj.gguf", eye)
    projector, told = asked(path)
    lines: list[str] = []
    if eye.kind != "qwen2vl_merger":  # its positions need a model of that architecture
        shape = Shape("gemma3", n_layer=6, n_swa=64) if eye.kind == "gemma3" else Shape()
        with Engine(on_log=lines.append) as engine:
            engine.load(write_model(tmp_path / "m.gguf", shape), replace(SEEING, projector=str(path)))
        printed = re.findall(r"reserve_compute_meta: +CPU compute buffer size = +([\d.]+) MiB", "\n".join(lines))
        assert printed[-1] == f"{(told.host - projector.size) / (1 << 20):.2f}"
    assert told.device == 0
    estimated = estimate_projector(projector, on_device=False)
    assert projector.size < told.host <= estimated.host


def test_a_damaged_projector_is_refused_in_the_dry_run_too(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="refuses the projector"):
        asked(write_projector(tmp_path / "p.gguf", leave_out="v.blk.0.ffn_up.weight"))


def test_a_projector_the_engine_refuses_or_dies_of_is_named_before_anything_is_loaded(
    llmrun: Run, folder: Path, tmp_path: Path
) -> None:
    refused = write_projector(tmp_path / "cut.gguf", leave_out="v.blk.0.ffn_up.weight")
    deadly = write_projector(tmp_path / "deadly.gguf", Eye(n_head=3))  # 64 numbers make no 3 heads: a GGML_ASSERT
    done = [llmrun("plan", str(folder / "seer-F16.gguf"), "--projector", str(path)) for path in (refused, deadly)]
    assert [one.returncode for one in done] == [6, 6]
    assert "cut.gguf cannot be used: llama.cpp refuses the projector" in done[0].stderr
    assert "the engine dies of deadly.gguf" in done[1].stderr


def test_a_projector_lies_on_the_first_device_of_this_machine_that_has_layers() -> None:
    assert device_of_projector(["CUDA0", "CUDA1"], 3) == 0
    assert device_of_projector(["rpc:a:1", "CUDA1"], None) == 1
    assert device_of_projector(["CUDA0"], 0) is None
    assert device_of_projector(["rpc:a:1"], None) is None
    base = Footprint(MemoryBreakdown(10, 0, 5), (MemoryBreakdown(20, 0, 6),))
    found = with_projector(base, 100, ProjectorMemory(7, 130), 0)
    assert found == Footprint(MemoryBreakdown(10, 0, 12), (MemoryBreakdown(120, 0, 36),))
    assert with_projector(base, 100, ProjectorMemory(130, 0), None).host == MemoryBreakdown(110, 0, 35)


def test_a_plan_counts_the_projector(llmrun: Run, folder: Path) -> None:
    model = str(folder / "seer-F16.gguf")
    plain, seeing = (
        figures(llmrun("plan", model, "--json", "--device", "none", *more)) for more in ((), ("--projector", "auto"))
    )
    projector, told = asked(folder / "mmproj-seer-F16.gguf")
    before, after = (plan["pools"][0]["used"] for plan in (plain, seeing))
    assert after["weights"] - before["weights"] == projector.size
    assert after["compute"] - before["compute"] == told.host - projector.size
    assert seeing["settings"]["projector"] == str(folder / "mmproj-seer-F16.gguf")
    shown = llmrun("plan", model, "--device", "none", "--projector", "auto").stdout
    assert "projector     mmproj-seer-F16.gguf: so that it sees images" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_an_image_that_has_to_be_seen_as_a_whole_makes_batches_large_enough(llmrun: Run, tmp_path: Path) -> None:
    write_model(tmp_path / "gemma-F16.gguf", Shape("gemma3", n_layer=6, n_swa=64))
    write_projector(tmp_path / "mmproj-F16.gguf", Eye("gemma3", image_size=14 * 64))
    done = llmrun("plan", str(tmp_path / "gemma-F16.gguf"), "--json", "--device", "none", "--projector", "auto")
    settings = figures(done)["settings"]
    assert (settings["n_ubatch"], settings["n_batch"]) == (1024, 1024)


# ---- seen


def test_an_answer_depends_on_the_image_and_an_image_is_read_once(seer: Engine, folder: Path) -> None:
    a, b = folder / "a.png", folder / "b.png"
    seer_a, first = answered(seer, user("what is this?", a))
    again, second = answered(seer, user("what is this?", a))
    seer_b, third = answered(seer, user("what is this?", b))
    blind, fourth = answered(seer, user("what is this?"))
    assert again == seer_a
    assert len({seer_a, seer_b, blind}) == 3
    assert first.prompt_tokens == second.prompt_tokens == third.prompt_tokens
    assert first.prompt_tokens - fourth.prompt_tokens == 16 + 1  # and the end of its line
    assert (second.cached_tokens, second.read_tokens) == (first.prompt_tokens - 1, 1)
    assert third.cached_tokens < 16


def test_a_later_turn_takes_the_image_over(seer: Engine, folder: Path) -> None:
    shown = user("what is this?", folder / "a.png")
    text, first = answered(seer, shown)
    _, second = answered(seer, shown, Message("assistant", text), user("and what else?"))
    assert second.cached_tokens >= first.prompt_tokens
    fresh = Engine()
    with fresh:
        fresh.load(folder / "seer-F16.gguf", replace(SEEING, projector=str(folder / "mmproj-seer-F16.gguf")))
        conversation = (shown, Message("assistant", text), user("and what else?"))
        assert answered(fresh, *conversation)[0] == answered(seer, *conversation)[0]


def test_an_image_stands_where_it_was_shown(seer: Engine, folder: Path) -> None:
    a, b = folder / "a.png", folder / "b.png"
    _, first = answered(seer, user("which?", a, b))
    _, longer = answered(seer, user("which of them?", a, b))
    _, swapped = answered(seer, user("which?", b, a))
    assert first.prompt_tokens == swapped.prompt_tokens
    assert longer.cached_tokens > 2 * 16 > 16 > swapped.cached_tokens


@pytest.mark.parametrize(
    "smuggled", ["<__media__>", "<image>", "\ufdd1", "\ufdd0", "".join(map(chr, range(0xFDD0, 0xFDF0)))]
)
def test_no_text_stands_for_an_image(seer: Engine, folder: Path, smuggled: str) -> None:
    _, plain = answered(seer, user("x", folder / "a.png"))
    _, with_text = answered(seer, user(f"x{smuggled}x", folder / "a.png"))
    shorter = with_text.prompt_tokens - plain.prompt_tokens
    assert 0 < shorter <= len(smuggled.encode()) + 1  # its bytes as text, and no 16 tokens of an image
    _, blind = answered(seer, user(f"x{smuggled}x"))
    assert with_text.prompt_tokens - blind.prompt_tokens == 17 - (len(smuggled) == 32) * 3


def test_images_keep_their_shape_where_positions_have_two_dimensions(
    folder: Path, tmp_path: Path, start_engine: Callable[..., Engine]
) -> None:
    """Qwen2-VL's: 56 x 84 pixels are 2 x 3 merged patches, which take 6 cells and 3 positions."""
    model = write_qwen2vl(tmp_path / "qwen-F16.gguf")
    path = write_projector(tmp_path / "mmproj-F16.gguf", Eye("qwen2vl_merger", n_text=320, image_size=560))
    (tmp_path / "wide.png").write_bytes(png(1200, 300))
    shown = user("what is this?", tmp_path / "wide.png")
    engine = start_engine(model, replace(SEEING, projector=str(path)))
    text, first = answered(engine, shown)
    _, without = answered(engine, user("what is this?"))
    again, second = answered(engine, shown)
    assert again == text
    assert second.read_tokens > 1  # the blind question was between
    _, third = answered(engine, shown, Message("assistant", text), user("and what else?"))
    assert third.cached_tokens >= first.prompt_tokens
    fresh = start_engine(model, replace(SEEING, projector=str(path)))
    conversation = (shown, Message("assistant", text), user("and what else?"))
    assert answered(fresh, *conversation)[0] == answered(engine, *conversation)[0]
    wide = 1200 // 28  # positions of an image are those of its longer side
    assert 0 < first.prompt_tokens - without.prompt_tokens - wide < 60


def test_reading_goes_on_before_an_image_and_never_inside_of_it() -> None:
    prompt = [5, -7, -7, -7, 6, -8, -8, 9]
    assert [before_image(prompt, end) for end in range(9)] == [0, 1, 1, 1, 4, 5, 5, 7, 8]


def test_an_image_that_changed_is_another_and_one_that_is_gone_is_remembered(seer: Engine, tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(png(40, 40, seed=5))
    before, _ = answered(seer, user("what?", path))
    path.unlink()
    assert answered(seer, user("what?", path))[0] == before
    path.write_bytes(png(60, 40, seed=6))
    assert answered(seer, user("what?", path))[0] != before
    with pytest.raises(NotFoundError):
        answered(seer, user("what?", tmp_path / "never.png"))


def test_a_broken_image_is_refused_and_the_engine_goes_on(seer: Engine, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png(40, 40)[:-400])
    with pytest.raises(UsageError, match=r"broken\.png cannot be unpacked"):
        answered(seer, user("what?", broken))
    huge = tmp_path / "huge.png"
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 16000, 16000))
    with pytest.raises(UsageError, match=r"huge\.png has 16,000 x 16,000 pixels"):
        answered(seer, user("what?", huge))
    assert answered(seer, user("what is this?", folder / "a.png"))[0]


def test_images_count_for_the_context(folder: Path, start_engine: Callable[..., Engine]) -> None:
    settings = replace(SEEING, n_ctx=256, projector=str(folder / "mmproj-seer-F16.gguf"))
    engine = start_engine(folder / "seer-F16.gguf", settings)
    with pytest.raises(ContextOverflowError):
        answered(engine, user("what?", *[folder / "a.png"] * 20))


def test_images_are_refused_where_nothing_sees(guide: Engine, folder: Path) -> None:
    with pytest.raises(UsageError, match="loaded without its projector"):
        answered(guide, user("what?", folder / "a.png"))


def test_a_whole_image_that_is_larger_than_a_batch_is_an_error_and_no_end(
    tmp_path: Path, start_engine: Callable[..., Engine], folder: Path
) -> None:
    model = write_model(tmp_path / "gemma-F16.gguf", Shape("gemma3", n_layer=6, n_swa=64))
    path = write_projector(tmp_path / "mmproj-F16.gguf", Eye("gemma3", image_size=14 * 24))
    engine = start_engine(model, replace(SEEING, projector=str(path)))
    with pytest.raises(EngineError, match="an image of 144 tokens has to be read at once, and 128 are"):
        answered(engine, user("what?", folder / "a.png"))
    wide = start_engine(model, replace(SEEING, projector=str(path), n_ubatch=256))
    assert answered(wide, user("what?", folder / "a.png"))[1].prompt_tokens > 144


def test_a_projector_of_another_model_is_refused_at_the_load_too(tmp_path: Path, tiny_model: Path) -> None:
    other = write_projector(tmp_path / "o.gguf", Eye(n_text=320))
    with Engine() as engine, pytest.raises(GGUFError, match=r"o\.gguf could not be loaded"):
        engine.load(tiny_model, replace(SEEING, projector=str(other)))


# ---- as people meet them


def test_run_shows_an_image(llmrun: Run, folder: Path) -> None:
    def run(*more: str) -> str:
        done = llmrun("run", str(folder / "seer-F16.gguf"), "what is this?", "-n", "6", "--temp", "0", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--image", str(folder / "a.png")) != run()


def test_what_cannot_be_shown_is_refused_by_name(llmrun: Run, folder: Path, guide_file: Path, tmp_path: Path) -> None:
    image = str(folder / "a.png")
    blind = llmrun("run", "guide", "what?", "--image", image)
    assert (blind.returncode, "guide cannot see images" in blind.stderr) == (2, True)
    missing = llmrun("run", "guide", "what?", "--image", str(tmp_path / "none.png"))
    assert (missing.returncode, "there is no image" in missing.stderr) == (5, True)
    no_image = llmrun("run", "guide", "what?", "--image", str(guide_file))
    assert (no_image.returncode, "is no image" in no_image.stderr) == (2, True)
    other = write_projector(tmp_path / "other.gguf", Eye(n_text=320))
    wrong = llmrun("run", str(folder / "seer-F16.gguf"), "what?", "--image", image, "--projector", str(other))
    assert (wrong.returncode, "other.gguf does not fit the model" in wrong.stderr) == (6, True)


def test_settings_without_a_projector_load_none(start_engine: Callable[..., Engine], folder: Path) -> None:
    engine = start_engine(folder / "seer-F16.gguf", RunSettings(n_threads=1, n_threads_batch=1, devices=()))
    assert engine.info is not None
    assert not engine.info.vision
