"""The order of variants in quality."""

from edgeagent.core.cards import ModelCard, Quality
from edgeagent.model.quality import FILE_TYPES, ranks
from tests.model.machines import registry

CARD = registry().card("qwen3-0.6b")


def with_measured(card: ModelCard, **perplexities: float) -> ModelCard:
    variants = [
        v.model_copy(update={"quality": Quality(perplexity=p, source="test")}) if (p := perplexities.get(v.name)) else v
        for v in card.variants
    ]
    return card.model_copy(update={"variants": tuple(variants)})


def in_order(card: ModelCard) -> list[str]:
    return sorted(ranks(card), key=ranks(card).__getitem__)


def test_unmeasured_variants_are_in_the_order_of_their_types() -> None:
    names = in_order(CARD)
    assert names == sorted(names, key=FILE_TYPES.index)
    assert len(names) >= 6


def test_measured_variants_are_in_the_order_of_their_perplexity() -> None:
    assert in_order(registry().card("smollm2-135m-instruct")) == ["Q4_1", "Q8_0", "Q3_K_M", "Q4_0", "Q2_K"]


def test_few_measured_variants_change_places_among_themselves_only() -> None:
    before = in_order(CARD)
    after = in_order(with_measured(CARD, Q8_0=30.0, Q4_0=20.0))
    swapped = {"Q8_0": "Q4_0", "Q4_0": "Q8_0"}
    assert after == [swapped.get(name, name) for name in before]


def test_pruned_variant_stands_behind_whole_ones_until_it_is_measured() -> None:
    pruned = CARD.variants[0].model_copy(update={"name": "pruned", "quantization": "Q8_0", "layers": 20})
    card = CARD.model_copy(update={"variants": (*CARD.variants, pruned)})
    assert in_order(card)[-1] == "pruned"


def test_types_whose_difference_is_scatter_share_a_place() -> None:
    places = ranks(registry().card("gemma-3-4b-it"))
    assert places["F16"] == places["Q8_0"] < places["Q4_K_M"]
