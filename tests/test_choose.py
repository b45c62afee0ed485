"""Laws of choosing, whatever the model, the machine and the wish."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from llmrun.memory.placement import place_layers
from llmrun.planning.candidates import LONGEST_SHARED
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.policy import ANYWHERE, POLICIES, PREFERENCES, Prefer
from llmrun.planning.quality import CLASSES, LOSS, loss_by_bits, loss_class, loss_of
from llmrun.planning.room import Room
from tests.judge_cases import Case, draw
from tests.test_judge import ground_of, offers_of

CASES = st.integers(100_000, 100_150).map(draw)  # none of those that the judge is asked about
PREFERS = st.sampled_from(PREFERENCES)


def chosen(case: Case, prefer: Prefer, ground: Ground | None = None) -> Choice | None:
    return choose(offers_of(case), ground_of(case) if ground is None else ground, POLICIES[prefer])


@given(CASES, PREFERS)
def test_no_plan_takes_more_of_a_pool_than_it_has(case: Case, prefer: Prefer) -> None:
    """The footprint is asked for anew: what was chosen says nothing else than the arithmetic."""
    choice = chosen(case, prefer)
    assume(choice is not None)
    assert choice is not None
    file = next(file for file in case.files if file.quant == choice.offer.quant)
    assert choice.footprint == file.footprint(choice.settings)
    room = ground_of(case).room
    indices = [case.devices.index(name) for name in choice.settings.devices or ()]
    pairs = [(used.total, index) for used, index in zip(choice.footprint.devices, indices, strict=True)]
    assert all((bound := room.devices[index]) is None or size <= bound for size, index in pairs)
    assert choice.footprint.host.total + sum(size for size, index in pairs if room.unified[index]) <= room.host


@given(
    CASES,
    PREFERS,
    st.sampled_from([(1,), (4, 2, 1)]),
    st.integers(0, 64 << 20),
    st.lists(st.integers(0, 64 << 20), min_size=3, max_size=3),
)
def test_more_room_never_gives_a_later_choice(
    case: Case, prefer: Prefer, slots: tuple[int, ...], host: int, more: list[int]
) -> None:
    """Where what was chosen still fits, what is chosen now comes before it, or is the same."""
    ground = replace(ground_of(case), slots=slots)
    choice = chosen(case, prefer, ground)
    assume(choice is not None)
    assert choice is not None
    rooms = (None if size is None else size + extra for size, extra in zip(case.rooms, more, strict=False))
    larger = Room(ground.room.host + host + sum(more), tuple(rooms), ground.room.unified)
    better = chosen(case, prefer, replace(ground, room=larger))
    assert better is not None
    assert place_of(better, case, prefer) <= place_of(choice, case, prefer)


def place_of(choice: Choice, case: Case, prefer: Prefer) -> tuple[object, ...]:
    """Where a choice stands in the policy's order: the smaller, the earlier."""
    step, settings = choice.step, choice.settings
    assert settings.n_ctx
    parallel = settings.n_seq_max
    leads = float(-settings.n_ctx // parallel) if step.order == "context" else 0.0
    if step.order == "speed":
        on_devices = bool(settings.n_gpu_layers)
        contexts = (case.fixed.n_ctx,) if case.fixed.n_ctx else step.up_to(choice.offer.n_ctx_train)
        kv_type = case.fixed.type_kv or step.kv_types[0]
        asked = replace(settings, n_ctx=contexts[-1] * parallel, n_ubatch=128, repack=False, tensor_split=None)
        asked = replace(asked, type_k=kv_type, type_v=kv_type, devices=case.devices if on_devices else ())
        leads = -(choice.offer.decode(asked) or 0.0)
    kv_types = (case.fixed.type_kv,) if case.fixed.type_kv else step.kv_types
    devices = [case.devices.index(name) for name in settings.devices or ()]
    return (
        *(POLICIES[prefer].steps.index(step), leads),
        *(choice.offer.loss, choice.offer.bpw, choice.offer.quant),
        ANYWHERE.index(choice.row.where),
        -settings.n_ubatch if choice.row.where in ("experts", "split") and step.order != "speed" else 0,
        *(-(settings.n_gpu_layers or 0), settings.cpu_experts),
        *(
            kv_types.index(settings.type_k),
            -settings.n_ubatch,
            not settings.repack,
            -parallel,
            -settings.n_ctx // parallel,
        ),
        *(len(devices), devices, [-count for count in settings.tensor_split or ()]),
    )


@given(CASES, PREFERS)
def test_what_the_user_fixed_is_in_the_choice(case: Case, prefer: Prefer) -> None:
    choice = chosen(case, prefer)
    assume(choice is not None)
    assert choice is not None
    fixed, settings = case.fixed, choice.settings
    parallel = fixed.parallel or 1
    assert (settings.n_seq_max, settings.n_outputs_max) == (parallel, parallel)
    assert fixed.n_ctx is None or settings.n_ctx == fixed.n_ctx * parallel
    assert fixed.type_kv is None or (settings.type_k, settings.type_v) == (fixed.type_kv, fixed.type_kv)
    assert fixed.n_gpu_layers is None or not case.devices or settings.n_gpu_layers == fixed.n_gpu_layers


@given(CASES, PREFERS)
def test_how_many_conversations_at_once_decides_nothing_that_is_preferred_to_it(case: Case, prefer: Prefer) -> None:
    """The variant and its placement are as for one conversation."""
    one = chosen(case, prefer)
    assume(one is not None and case.fixed.parallel is None)
    assert one is not None
    ground = replace(ground_of(case), slots=(4, 2, 1))
    many = chosen(case, prefer, ground)
    assert many is not None
    assert (many.step, many.offer.quant) == (one.step, one.offer.quant)
    assert (many.row.n_gpu_layers, many.row.cpu_experts) == (one.row.n_gpu_layers, one.row.cpu_experts)
    settings = many.settings
    assert settings.n_ctx
    assert settings.n_seq_max in ground.slots
    assert settings.n_outputs_max == settings.n_seq_max
    assert settings.n_ctx % settings.n_seq_max == 0
    assert case.fixed.n_ctx in (None, settings.n_ctx // settings.n_seq_max)
    if settings.n_seq_max > 1 and case.fixed.n_ctx is None:
        assert settings.n_ctx // settings.n_seq_max <= LONGEST_SHARED


@given(CASES, PREFERS)
def test_weights_that_only_many_gain_from_are_repacked_where_nothing_else_is_lost(case: Case, prefer: Prefer) -> None:
    ground = replace(ground_of(case), slots=(4, 2, 1))
    plain = [replace(offer, repacks=False) for offer in offers_of(case)]
    usual = choose(plain, ground, POLICIES[prefer])
    together = [replace(offer, repacks_together=True) for offer in plain]
    found = choose(together, ground, POLICIES[prefer])
    assume(usual is not None)
    assert usual is not None
    assert found is not None
    assert replace(found.settings, repack=False) == usual.settings
    assert not found.settings.repack or (found.settings.n_seq_max > 1 and not found.row.n_gpu_layers)
    room = replace(ground.room, host=ground.room.host + (1 << 50))
    roomy = choose(together, replace(ground, room=room), POLICIES[prefer])
    assert roomy is not None
    assert roomy.settings.repack == (roomy.settings.n_seq_max > 1 and not roomy.row.n_gpu_layers)


@given(CASES, PREFERS)
def test_every_device_used_gets_the_layers_the_split_says(case: Case, prefer: Prefer) -> None:
    """As llama.cpp places them; the output is one of them."""
    choice = chosen(case, prefer)
    assume(choice is not None)
    assert choice is not None
    settings = choice.settings
    assert len(settings.devices or ()) == len(settings.tensor_split or (settings.devices or ()))
    split = settings.tensor_split or (1.0,) * len(settings.devices or ())
    placement = place_layers(choice.offer.sizes.n_layer, settings.n_gpu_layers, split)
    placed = [*placement.layers, placement.output]
    counts = [placed.count(index) for index in range(len(split))]
    assert sum(counts) == settings.n_gpu_layers
    assert settings.tensor_split is None or counts == list(settings.tensor_split)
    assert all(counts)


@given(st.lists(st.integers(1, 200), min_size=2, max_size=4))
def test_a_split_in_whole_layers_is_met_exactly(counts: list[int]) -> None:
    """Whatever the counts: llama.cpp divides in 32 bits, and a layer on a bound belongs to the device behind it."""
    placement = place_layers(sum(counts) + 5, sum(counts), tuple(map(float, counts)))
    placed = [*placement.layers, placement.output]
    assert [placed.count(index) for index in range(len(counts))] == counts


@given(CASES)
def test_what_bits_there_are_too_many_of_is_taken_where_there_is_nothing_else(case: Case) -> None:
    choice = chosen(case, "balanced")
    assume(choice is not None)
    assert choice is not None
    assert choice.offer.bpw <= 8.6 or all(file.bpw > 8.6 for file in case.files)


def test_every_known_quantization_has_a_class() -> None:
    assert {loss_class(loss) for loss in LOSS.values()} == set(CLASSES)
    assert all(loss <= loss_class(loss).most for loss in LOSS.values())
    assert list(LOSS.values()) == sorted(LOSS.values())


@given(st.floats(0.5, 32), st.floats(0.5, 32))
def test_more_bits_never_lose_more(one: float, other: float) -> None:
    few, many = sorted((one, other))
    assert loss_by_bits(few) >= loss_by_bits(many) > 0


def test_bits_between_two_known_ones_lose_something_in_between() -> None:
    losses = [loss_by_bits(bits) for bits in (2.0, 2.2, 3.0, 4.0, 4.5, 5.0, 6.0, 8.0, 12.0, 16.0)]
    assert all(before > after for before, after in itertools.pairwise(losses))


def test_a_label_is_known_with_and_without_its_prefix_and_whatever_its_case() -> None:
    assert loss_of("UD-Q4_K_XL", 1.0) == loss_of("q4_k_xl", 1.0) == LOSS["Q4_K_XL"]
    assert loss_of("MXFP4_MOE", 4.3, "gpt-oss") < loss_of("MXFP4_MOE", 4.3, "qwen3moe")
    assert loss_of("EXOTIC", 4.89) == loss_of(None, 4.89) == loss_by_bits(4.89)
