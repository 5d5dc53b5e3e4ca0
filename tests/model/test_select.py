"""Selection: the best variant within memory and targets, how to run it, and a reason."""

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import ConfigError, ModelNotFoundError, OutOfMemoryError
from edgeagent.core.hardware import Rates
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.select import Sizes, judge, select
from tests.model.machines import machine, registry

CARD = registry().card("smollm2-135m-instruct")
SIZES: Sizes = {
    "Q4_1": 98_362_432, "Q8_0": 144_811_072, "Q4_0": 91_726_912, "Q3_K_M": 93_510_208, "Q2_K": 88_201_792,
}  # fmt: skip
ALL = {card.id: {v.name: v.bytes for v in card.variants} for card in registry().cards}


def limits(memory_mb: float = 8000, ttft_s: float = 10, **more: object) -> Limits:
    wanted: dict[str, object] = {"context_tokens": 4096, "kv_type": "q8_0"}
    return Limits(int(memory_mb * 1e6), ttft_s, **(wanted | more))  # type: ignore[arg-type]


def measured(**prefill_tok_s: float) -> Machine:
    """A machine where these variants were measured, and nothing else."""
    rates = {f"{CARD.id}/{k}": Rates(prefill_tok_s=v, decode_tok_s=50) for k, v in prefill_tok_s.items()}
    return machine(rates=rates)


def only(*names: str) -> Sizes:
    return {name: SIZES[name] for name in names}


def test_everything_fits_takes_the_best_quality_and_says_so_with_figures() -> None:
    selection = select(CARD, SIZES, measured(Q4_1=160), limits())
    assert selection.variant == "Q4_1"
    for figure in ("of 5 variants", "perplexity 23.12", "8,000", "4096 tokens of q8_0", "6.2 s", "measured"):
        assert figure in selection.why
    assert [row.variant for row in selection.table] == [v.name for v in CARD.variants]


def test_tight_memory_takes_the_best_that_fits_and_names_the_better_one_it_passed_over() -> None:
    selection = select(CARD, only("Q8_0", "Q4_0", "Q3_K_M", "Q2_K"), machine(), limits(230))
    assert selection.variant == "Q3_K_M"
    assert "not Q8_0: it needs 250.9 MB with 2048 tokens" in selection.why
    assert next(row for row in selection.table if row.variant == "Q8_0").faults == ("memory",)


def test_context_is_shortened_to_fit_but_not_below_the_least() -> None:
    choice = select(CARD, only("Q4_1"), machine(), limits(215)).choice
    assert 2048 <= choice.context_tokens < 4096
    assert choice.context_tokens % 256 == 0
    assert choice.memory_bytes <= 215e6
    with pytest.raises(OutOfMemoryError):
        select(CARD, only("Q4_1"), machine(), limits(215, min_context_tokens=4096))


def test_context_is_at_most_what_the_model_was_made_for() -> None:
    assert select(CARD, SIZES, machine(), limits(context_tokens=100_000)).choice.context_tokens == 8192


def test_coarse_cache_is_taken_only_where_it_is_allowed_and_needed() -> None:
    tight = limits(236, context_tokens=8192, min_context_tokens=8192)
    with pytest.raises(OutOfMemoryError):
        select(CARD, only("Q4_1"), machine(), tight)
    allowed = limits(236, context_tokens=8192, min_context_tokens=8192, coarse_cache=True)
    assert select(CARD, only("Q4_1"), machine(), allowed).choice.kv_type == "q4_0"
    roomy = limits(context_tokens=8192, coarse_cache=True)
    assert select(CARD, only("Q4_1"), machine(), roomy).choice.kv_type == "q8_0"


def test_cache_type_that_failed_here_gives_way_to_f16() -> None:
    assert select(CARD, SIZES, machine(kv_types=frozenset({"f16"})), limits()).choice.kv_type == "f16"


def test_repacked_weights_are_read_where_mapping_them_would_not_fit() -> None:
    """Mapped, the file and the repacked copies are both there: 265 MiB were measured, 208 MiB read."""
    roomy = select(CARD, only("Q4_0"), machine(), limits(300)).choice
    tight = select(CARD, only("Q4_0"), machine(), limits(240)).choice
    assert roomy.option.placement.setup.loading == "mapped"
    assert tight.option.placement.setup.loading == "read"
    assert tight.context_tokens == 4096


def test_latency_target_moves_the_choice_to_a_faster_variant() -> None:
    selection = select(CARD, only("Q4_1", "Q4_0"), measured(Q4_1=80, Q4_0=200), limits(ttft_s=6, memory_mb=8000))
    assert selection.table[0].faults == ("latency",)
    assert "first token comes 12.5 s after 1000 tokens (measured), 6 s are asked for" in str(
        selection.table[0].rejected
    )


def test_time_per_token_is_a_target_too() -> None:
    slow = {
        f"{CARD.id}/{name}": Rates(prefill_tok_s=500, decode_tok_s=rate) for name, rate in (("Q4_1", 3), ("Q2_K", 9))
    }
    table = {row.variant: row for row in judge(CARD, only("Q4_1", "Q2_K"), machine(rates=slow), limits())}
    assert table["Q4_1"].faults == ("latency",)
    assert "a token takes 0.33 s (measured), 0.25 s are asked for" in str(table["Q4_1"].rejected)
    assert table["Q2_K"].rejected is None


def test_targets_out_of_reach_take_the_fastest_and_say_so() -> None:
    selection = select(CARD, only("Q4_1", "Q4_0"), measured(Q4_1=4, Q4_0=5), limits(ttft_s=6))
    assert selection.variant == "Q4_0"
    assert "none that fits reaches the targets (first token within 6 s" in selection.why


def test_quality_objective_ignores_the_latency_targets() -> None:
    slow = limits(ttft_s=0.01, objective="quality")
    assert select(CARD, SIZES, measured(Q4_1=4, Q2_K=400), slow).variant == "Q4_1"


def test_energy_objective_takes_the_least_energy_and_without_a_figure_the_best_quality() -> None:
    card = registry().card("llama-3.2-1b-instruct")
    wish = limits(ttft_s=1000, tpot_s=10, objective="energy")
    assert select(card, ALL[card.id], machine(2.0), wish).variant == "Q8_0"
    selection = select(card, only_of(card, "Q8_0", "Q3_K_L"), machine(2.0, load_w=10.0), wish)
    assert selection.variant == "Q3_K_L"
    assert "the least energy" in selection.why
    assert " J an answer" in selection.why


def only_of(card: ModelCard, *names: str) -> Sizes:
    return {name: ALL[card.id][name] for name in names}


def test_unmeasured_variant_gets_an_estimate_from_the_nearest_measured_one() -> None:
    table = {row.variant: row for row in judge(CARD, SIZES, measured(Q4_1=100), limits())}
    own, other = table["Q4_1"].speed, table["Q8_0"].speed
    assert own is not None
    assert other is not None
    assert (own.basis, other.basis) == ("measured", "estimated")
    assert own.ttft_s == other.ttft_s == pytest.approx(10)
    assert other.tpot_s == pytest.approx(0.02 * 143 / 97, rel=0.01)  # bytes a token reads


def test_measured_arithmetic_predicts_every_variant_before_it_is_here() -> None:
    card = registry().card("qwen3-4b")
    rows = judge(card, ALL[card.id], machine(2.0), limits(ttft_s=1e6))
    assert {row.speed.basis for row in rows if row.speed} == {"predicted"}
    by_size = sorted(rows, key=lambda row: row.bytes or 0)
    decodes = [row.speed.tpot_s for row in by_size if row.speed and row.speed.tpot_s]
    assert decodes == sorted(decodes)
    assert all(row.choice and row.choice.threads == 2 for row in rows)


def test_nothing_known_of_speed_judges_no_latency() -> None:
    selection = select(CARD, SIZES, machine(), limits(ttft_s=0.001))
    assert selection.variant == "Q4_1"
    assert "not measured yet" in selection.why


def test_size_is_predicted_where_no_file_was_seen() -> None:
    row = judge(CARD, {"Q8_0": None}, machine(), limits())[0]
    assert row.is_size_predicted
    assert row.bytes == pytest.approx(144_811_072, rel=0.001)


def test_nothing_fits_says_what_would() -> None:
    with pytest.raises(OutOfMemoryError, match=r"fits 100\.0 MB; Q2_K would with \d+\.\d MB at 2048 tokens"):
        select(CARD, SIZES, machine(), limits(100))


def test_quality_floor_out_of_reach_is_an_error() -> None:
    with pytest.raises(ConfigError, match="quality_floor"):
        select(CARD, SIZES, machine(), limits(quality_floor=20))


def test_quality_floor_refuses_what_was_never_measured() -> None:
    card = registry().card("qwen3-0.6b")
    rows = judge(card, ALL[card.id], machine(), limits(quality_floor=30))
    assert all("its quality was never measured" in str(row.rejected) for row in rows)


def test_nothing_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelNotFoundError, match="models pull"):
        select(CARD, {}, machine(), limits())


def test_front_keeps_what_nothing_beats_in_everything() -> None:
    table = {row.variant: row for row in judge(CARD, SIZES, machine(2.0), limits())}
    assert table["Q4_1"].is_on_front
    assert not table["Q8_0"].is_on_front  # more of everything than Q4_1, and no better
