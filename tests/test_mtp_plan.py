"""A model's own MTP layers in a plan: which models have them, what they take, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmrun.beside import open_beside
from llmrun.cli.wishes import drafted
from llmrun.engine.standby import Standby
from llmrun.errors import GGUFError, UsageError
from llmrun.footprints import Footprints
from llmrun.gguf.draft import check_layers, has_layers
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.source import read_header
from llmrun.memory.shape import model_shape
from llmrun.models import Search, open_model
from llmrun.planning.llama_server import llama_server_command
from llmrun.planning.plan import PlanWish
from llmrun.reference import LocalRef
from llmrun.settings import AUTO, MTP, Constraints, RunSettings
from llmrun.settling import Wishes
from scripts.architectures.quants import quantized
from scripts.architectures.shapes import MODELS
from scripts.synthetic import TINY, write_model

Run = Callable[..., CompletedProcess[str]]
HEADED = replace(TINY, architecture="hy_v3", n_layer=3, n_mtp=1)
SETTINGS = RunSettings(
    n_ctx=4096, devices=(), n_gpu_layers=0, n_outputs_max=8, n_draft_max=7, load_mode="none", draft=MTP
)


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "headed.gguf", HEADED)


@pytest.fixture(scope="module")
def header(headed: Path) -> GGUFHeader:
    return read_header(headed)


# ---- which models have them


def test_a_model_with_layers_can_guess_for_itself(header: GGUFHeader) -> None:
    check_layers(header)
    assert has_layers(quantized(MODELS["glm-4.5-air"], "Q4_K_M"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: without_layers(header), "it was made without them"),
        (
            lambda header: renamed(header, "exaone4"),
            r"architecture exaone4 cannot be used here: those of glm4moe, hy_v3",
        ),
        (lambda header: quantized(MODELS["llama-3.2-1b"], "F16"), "has no layers for multi-token prediction"),
    ],
    ids=["cut off", "not run", "none"],
)
def test_one_without_is_told_why(header: GGUFHeader, change: Callable[[GGUFHeader], GGUFHeader], message: str) -> None:
    changed = change(header)
    assert not has_layers(changed)
    with pytest.raises(GGUFError, match=message) as caught:
        check_layers(changed)
    assert caught.value.hint == "leave --draft mtp out: guesses come from the conversation then"


def without_layers(header: GGUFHeader) -> GGUFHeader:
    return replace(header, tensors=tuple(tensor for tensor in header.tensors if ".nextn." not in tensor.name))


def renamed(header: GGUFHeader, name: str) -> GGUFHeader:
    old = header.architecture
    keys = {key.replace(f"{old}.", f"{name}."): value for key, value in header.metadata.items()}
    entry = replace(header.metadata["general.architecture"], value=name)
    return replace(header, metadata=keys | {"general.architecture": entry})


# ---- what is meant


def test_the_word_is_taken_as_it_is() -> None:
    assert drafted(Constraints(), "MTP").draft == MTP
    with pytest.raises(UsageError, match="--speculate off forbids that"):
        drafted(Constraints(n_draft_max=0), "mtp")


@pytest.mark.parametrize("wish", [AUTO, MTP])
def test_the_draft_that_comes_with_such_a_model_is_its_own(headed: Path, wish: str) -> None:
    ref, search = LocalRef(headed), Search(offline=True)
    wishes = open_beside(ref, Wishes(Constraints(draft=wish), PlanWish()), open_model(ref, search), search)
    assert (wishes.draft, wishes.fixed.draft, wishes.guesses_itself) == (None, MTP, True)


# ---- what they take


def test_the_arithmetic_knows_a_real_models_layers_as_the_engine_does() -> None:
    """Weights and caches to the byte; to compute in, no less and not much more."""
    header = quantized(MODELS["glm-4.5-air"], "Q4_K_M")
    with Standby() as standby:
        footprints = Footprints(header, standby=standby)
        for changed in (SETTINGS, replace(SETTINGS, n_seq_max=2, type_k="q8_0", type_v="q8_0")):
            exact, thought = footprints.of_draft(changed, "engine"), footprints.of_draft(changed, "arithmetic")
            assert exact is not None
            assert thought is not None
            assert (thought.host.weights, thought.host.kv_cache) == (exact.host.weights, exact.host.kv_cache)
            assert exact.host.compute <= thought.host.compute <= 1.5 * exact.host.compute
            whole, without = footprints.exact(changed), footprints.exact(replace(changed, draft=None))
            assert whole is not None
            assert without is not None
            assert whole.total - without.total == exact.total
    last = footprints.of_draft(SETTINGS, "engine")
    assert last is not None
    names = tuple(tensor for tensor in header.tensors if tensor.name.startswith("blk.46."))
    assert last.host.weights >= sum(tensor.size for tensor in names) == footprints.n_draft_bytes


def test_without_them_most_of_the_layers_is_not_loaded(header: GGUFHeader) -> None:
    with Standby() as standby:
        footprints = Footprints(header, standby=standby)
        exact = footprints.exact(replace(SETTINGS, n_ctx=1024, draft=None))
    shape = model_shape(header)
    groups = (*(layer.weights for layer in shape.layers), shape.input, shape.output)
    assert exact is not None
    assert exact.host.weights == sum(group.size for group in groups)
    assert 0 < shape.layers[-1].weights.size < shape.layers[0].weights.size


# ---- what is said


def test_a_plan_says_what_they_take(headed: Path, llmrun: Run) -> None:
    shown = llmrun("plan", str(headed), "--draft", "mtp", "--threads", "1").stdout
    assert "  of it the draft " in shown
    assert "draft         MTP layers: the model's own layers guess for it" in shown


def test_llama_server_is_told_the_same() -> None:
    flags = llama_server_command("m.gguf", SETTINGS, 2048)
    at = flags.index("--spec-type")
    assert flags[at : at + 4] == ("--spec-type", "draft-mtp", "--spec-draft-n-max", "7")
    assert "-md" not in flags
