"""Selection over all boards, budgets and cards: what must hold whatever the machine."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.core.cards import Architecture, Experts, KvType, ModelCard, Variant
from edgeagent.core.errors import ConfigError, OutOfMemoryError
from edgeagent.model.footprint import predict, weigh
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Gpu, Machine
from edgeagent.model.quality import ranks
from edgeagent.model.select import Choice, Selection, Sizes, select
from edgeagent.model.sketch import board_machine
from edgeagent.resource.boards import load_boards
from tests.model.machines import ROOT, kernels, machine, registry

CARDS = [card for card in registry().cards if card.architecture]
BOARDS = load_boards(ROOT / "hwprofiles")
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")


def odd_heads() -> ModelCard:
    """A card nobody has: heads of 80 values, which are no whole blocks; a mixture of experts; few legal cuts."""
    shape = Architecture(
        family="llama",
        layers=12,
        width=640,
        ffn=1280,
        heads=8,
        kv_heads=8,
        head_dim=80,
        vocab=32_000,
        context_tokens=8192,
        cut_step=4,
        experts=Experts(count=16, used=2, ffn=1280),
    )
    base = CARDS[0]
    variants = tuple(
        Variant(name=kind, file=f"odd.{kind}.gguf", source=base.variants[0].source)
        for kind in ("Q8_0", "Q4_K_M", "Q3_K_M")
    )
    return base.model_copy(update={"id": "odd-heads", "architecture": shape, "variants": variants})


ALL_CARDS = [*CARDS, odd_heads()]


@cache
def sizes_of(card_id: str) -> Sizes:
    return {v.name: v.bytes for v in next(c for c in ALL_CARDS if c.id == card_id).variants}


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A board as written, or as if it had been measured; with storage, a GPU, cache types that failed here."""
    found = board_machine(draw(st.sampled_from(BOARDS)))
    flash_attention = draw(st.booleans())
    bad = draw(st.sets(st.sampled_from(["q8_0", "q4_0"])))
    kv_types: frozenset[KvType] = frozenset(k for k in KV_TYPES if k == "f16" or (flash_attention and k not in bad))
    gpus = st.none() | st.builds(Gpu, st.just("gpu"), st.none() | st.integers(10**8, 3 * 10**10))
    return replace(
        found,
        repacked=draw(st.sampled_from([found.repacked, frozenset[str]()])),
        flash_attention=flash_attention,
        can_map=draw(st.booleans()),
        kv_types=kv_types,
        kernels=draw(st.none() | st.sampled_from([0.1, 1.0, 20.0]).map(kernels)),
        storage_read_bytes_s=draw(st.none() | st.floats(1e6, 1e10)),
        gpu=draw(gpus),
    )


limits = st.builds(
    Limits,
    memory_bytes=st.integers(10**8, 4 * 10**10),
    ttft_s=st.floats(0.1, 1000),
    context_tokens=st.integers(256, 40_000),
    kv_type=st.sampled_from(KV_TYPES),
    quality_floor=st.none() | st.floats(20, 30),
    tpot_s=st.floats(0.01, 2),
    min_context_tokens=st.integers(0, 40_000),
    coarse_cache=st.booleans(),
    objective=st.sampled_from(["latency", "energy", "quality"]),
    threads=st.none() | st.sampled_from([1, 2, 7]),
)
cards = st.sampled_from(ALL_CARDS)


def selected(card: ModelCard, where: Machine, wish: Limits) -> Selection | None:
    try:
        return select(card, sizes_of(card.id), where, wish)
    except (OutOfMemoryError, ConfigError):
        return None


def shape_of(card: ModelCard, choice: Choice) -> Architecture:
    variant = card.variant(choice.variant)
    assert variant is not None
    return card.shape(variant)


@settings(max_examples=100, deadline=None)
@given(cards, machines(), limits)
def test_choice_is_legal_and_fits(card: ModelCard, where: Machine, wish: Limits) -> None:
    found = selected(card, where, wish)
    if found is None:
        return
    choice = found.choice
    shape, placement = shape_of(card, choice), choice.option.placement
    assert choice.memory_bytes <= wish.memory_bytes
    assert choice.kv_type in where.kv_types
    assert shape.allows_kv(choice.kv_type)
    assert choice.kv_type == "f16" or where.flash_attention
    assert 0 < choice.context_tokens <= min(wish.context_tokens, shape.context_tokens)
    assert placement.gpu_layers == 0 or where.gpu is not None
    if 0 < placement.gpu_layers <= shape.layers:
        assert shape.layers - placement.gpu_layers in shape.split_points()
    if where.gpu and where.gpu.memory_bytes is not None:
        assert placement.gpu_bytes <= where.gpu.memory_bytes
    assert not placement.experts_on_cpu or shape.experts


@settings(max_examples=100, deadline=None)
@given(cards, machines(), limits)
def test_nothing_swaps_and_only_measured_fast_storage_is_paged_from(
    card: ModelCard, where: Machine, wish: Limits
) -> None:
    """Everything but paged weights is in memory at once; paged ones come within the time a token may take."""
    found = selected(card, where, wish)
    if found is None:
        return
    choice, shape = found.choice, shape_of(card, found.choice)
    setup, variant = choice.option.placement.setup, card.variant(found.choice.variant)
    assert variant is not None
    weights = weigh(shape, variant.file_type, where.repacked, sizes_of(card.id)[variant.name])
    assert weights is not None
    in_memory = predict(shape, weights, replace(setup, context_tokens=choice.context_tokens)).total_bytes
    assert in_memory - choice.option.placement.gpu_bytes <= wish.memory_bytes
    if setup.loading != "paged":
        return
    assert where.storage_read_bytes_s is not None
    missing = 1 - setup.resident_share
    token_bytes = weights.used_expert_bytes * missing if shape.experts else weights.layer_bytes
    assert token_bytes / where.storage_read_bytes_s <= wish.tpot_s * 1.001


@settings(max_examples=100, deadline=None)
@given(cards, machines(), limits, st.floats(1, 4))
def test_more_memory_never_chooses_worse_quality(card: ModelCard, where: Machine, wish: Limits, factor: float) -> None:
    less = selected(card, where, wish)
    more = selected(card, where, replace(wish, memory_bytes=int(wish.memory_bytes * factor)))
    if less is None:
        return
    assert more is not None
    places = ranks(card)
    assert places[more.variant] <= places[less.variant]
    if places[more.variant] == places[less.variant] and wish.kv_type != "q4_0":
        assert more.choice.kv_type == less.choice.kv_type or less.choice.kv_type == "q4_0"


@settings(max_examples=60, deadline=None)
@given(cards, machines(), limits)
def test_same_question_has_the_same_answer(card: ModelCard, where: Machine, wish: Limits) -> None:
    backwards = dict(reversed(list(sizes_of(card.id).items())))
    first = selected(card, where, wish)
    try:
        second = select(card, backwards, where, wish)
    except (OutOfMemoryError, ConfigError):
        assert first is None
        return
    assert first == second


@settings(max_examples=100, deadline=None)
@given(cards, machines(), limits)
def test_every_rejection_has_a_reason_and_the_choice_is_on_the_front(
    card: ModelCard, where: Machine, wish: Limits
) -> None:
    found = selected(card, where, wish)
    if found is None:
        return
    for row in found.table:
        assert bool(row.faults) == bool(row.rejected)
        assert row.choice is not None
        assert row.fits_memory == (row.choice.memory_bytes <= wish.memory_bytes)
    chosen = next(row for row in found.table if row.variant == found.variant)
    assert not {"memory", "quality", "size"} & set(chosen.faults)
    assert found.variant in found.why


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.id)
@pytest.mark.parametrize("budget_mb", [100, 300, 1000, 3000, 12_000])
def test_every_board_gets_an_answer_or_a_reason_for_every_card(board: object, budget_mb: int) -> None:
    where = board_machine(board)  # type: ignore[arg-type]
    for card in CARDS:
        found = selected(card, where, Limits(budget_mb * 10**6, 10, 4096, "q8_0"))
        assert found is None or found.choice.memory_bytes <= budget_mb * 10**6


def test_experts_are_paged_where_storage_keeps_up_and_never_from_an_sd_card() -> None:
    """Qwen3 30B-A3B in Q4_K_M on 12 GB: 18.6 GB of weights, of which a token uses 1 GB of experts."""
    card = registry().card("qwen3-30b-a3b")
    wish = Limits(12 * 10**9, 1e4, 4096, "q8_0", tpot_s=0.3)
    only = {"Q4_K_M": sizes_of(card.id)["Q4_K_M"]}
    nvme = select(card, only, replace(machine(20.0), storage_read_bytes_s=3e9), wish).choice
    assert nvme.option.placement.setup.loading == "paged"
    assert nvme.option.placement.setup.resident_share == 4 / 8
    for rate in (None, 90e6):
        with pytest.raises(OutOfMemoryError):
            select(card, only, replace(machine(20.0), storage_read_bytes_s=rate), wish)


def test_gpu_takes_all_but_the_experts_where_its_memory_ends() -> None:
    card = registry().card("qwen3-30b-a3b")
    only = {"Q4_K_M": sizes_of(card.id)["Q4_K_M"]}
    wish = Limits(24 * 10**9, 10, 4096, "q8_0")
    for memory, layers, experts_on_cpu in ((24e9, 49, False), (6e9, 49, True), (1e8, 0, False)):
        where = machine(gpu=Gpu("gpu", int(memory)))
        placement = select(card, only, where, wish).choice.option.placement
        assert (placement.gpu_layers, placement.experts_on_cpu) == (layers, experts_on_cpu)


def test_gpu_with_little_memory_takes_the_last_layers_behind_a_legal_cut() -> None:
    card = registry().card("gemma-3-4b-it")
    where = machine(gpu=Gpu("gpu", 1_200_000_000))
    choice = select(card, {"Q4_K_M": None}, where, Limits(8 * 10**9, 10, 4096, "q8_0")).choice
    shape = shape_of(card, choice)
    assert 0 < choice.option.placement.gpu_layers < shape.layers
    assert shape.layers - choice.option.placement.gpu_layers in shape.split_points()
