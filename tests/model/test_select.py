"""Selection: best quality within memory and latency, and a reason."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ConfigError, ModelNotFoundError, OutOfMemoryError
from edgeagent.core.hardware import Rates
from edgeagent.model.registry import Registry
from edgeagent.model.select import Limits, predict_memory, select

CARD = Registry.load(Path(__file__).parents[2] / "models").card("smollm2-135m-instruct")
SIZES = {"Q4_1": 98_362_432, "Q8_0": 144_811_072, "Q4_0": 91_726_912, "Q3_K_M": 93_510_208, "Q2_K": 88_201_792}
ROOMY = Limits(memory_bytes=2**33, ttft_s=10, context_tokens=4096, kv_type="q8_0")


def rates(prefill_tok_s: float) -> Rates:
    return Rates(prefill_tok_s=prefill_tok_s, decode_tok_s=50)


def limits(memory_mb: float = 8000, ttft_s: float = 10, floor: float | None = None) -> Limits:
    return Limits(int(memory_mb * 1e6), ttft_s, context_tokens=4096, kv_type="q8_0", quality_floor=floor)


def test_everything_fits_takes_the_best_quality() -> None:
    selection = select(CARD, SIZES, {"Q4_1": rates(160)}, ROOMY)
    assert selection.variant == "Q4_1"
    assert "perplexity 23.12" in selection.why
    assert [row.variant for row in selection.table] == [v.name for v in CARD.variants]


def test_memory_prediction_is_near_what_a_worker_took() -> None:
    """Measured 204 MiB resident: Q4_1, 4,096 tokens of q8_0 cache filled in chunks of 64, x86-64."""
    assert CARD.architecture is not None
    predicted = predict_memory(CARD.architecture, SIZES["Q4_1"], ROOMY)
    assert predicted == pytest.approx(204 * 2**20, rel=0.10)


def test_tight_memory_takes_the_best_that_fits() -> None:
    without_q4_1 = {name: size for name, size in SIZES.items() if name != "Q4_1"}
    selection = select(CARD, without_q4_1, {}, limits(memory_mb=230))
    assert selection.variant == "Q3_K_M"
    assert next(row for row in selection.table if row.variant == "Q8_0").rejected == "memory"


def test_latency_target_moves_the_choice_to_a_faster_variant() -> None:
    measured = {"Q4_1": rates(80), "Q4_0": rates(200)}
    selection = select(CARD, {k: SIZES[k] for k in measured}, measured, limits(ttft_s=6))
    assert selection.variant == "Q4_0"


def test_latency_out_of_reach_takes_the_fastest_and_says_so() -> None:
    measured = {"Q4_1": rates(4), "Q4_0": rates(5)}
    selection = select(CARD, {k: SIZES[k] for k in measured}, measured, limits(ttft_s=6))
    assert selection.variant == "Q4_0"
    assert "none reaches a first token within 6 s" in selection.why


def test_unmeasured_variant_gets_an_estimate_marked_as_such() -> None:
    table = {row.variant: row for row in select(CARD, SIZES, {"Q4_1": rates(100)}, ROOMY).table}
    assert table["Q4_1"].ttft_s == pytest.approx(10)
    assert not table["Q4_1"].estimated
    assert table["Q8_0"].ttft_s == pytest.approx(10 * SIZES["Q8_0"] / SIZES["Q4_1"])
    assert table["Q8_0"].estimated


def test_nothing_measured_does_not_judge_latency() -> None:
    selection = select(CARD, SIZES, {}, limits(ttft_s=0.001))
    assert selection.variant == "Q4_1"
    assert "not measured yet" in selection.why


def test_nothing_fits_says_what_would() -> None:
    with pytest.raises(OutOfMemoryError, match=r"Q2_K would with \d+ MB at 4096 tokens"):
        select(CARD, SIZES, {}, limits(memory_mb=100))


def test_quality_floor_out_of_reach_is_an_error() -> None:
    with pytest.raises(ConfigError, match="quality_floor"):
        select(CARD, SIZES, {}, limits(floor=20))


def test_nothing_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelNotFoundError, match="models pull"):
        select(CARD, {}, {}, ROOMY)


@given(
    memory_mb=st.floats(100, 400),
    ttft_s=st.floats(0.1, 20),
    here=st.sets(st.sampled_from(sorted(SIZES)), min_size=1),
    measured=st.dictionaries(st.sampled_from(sorted(SIZES)), st.floats(1, 500)),
)
def test_any_situation_chooses_nothing_that_is_dominated(
    memory_mb: float, ttft_s: float, here: set[str], measured: dict[str, float]
) -> None:
    sizes = {name: SIZES[name] for name in here}
    try:
        selection = select(CARD, sizes, {k: rates(v) for k, v in measured.items()}, limits(memory_mb, ttft_s))
    except OutOfMemoryError:
        return
    rows = {row.variant: row for row in selection.table}
    chosen = rows[selection.variant]
    assert chosen.fits_memory
    for row in rows.values():
        if row.rejected is None and chosen.rejected is None:
            assert (chosen.perplexity or 0) <= (row.perplexity or 0)
        assert row.rejected is not None or chosen.rejected is None
