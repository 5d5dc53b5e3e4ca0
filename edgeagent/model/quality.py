"""Which of a model's variants is better: by what was measured, else by llama.cpp's order of file types. Pure."""

from edgeagent.core.cards import ModelCard, Variant

FILE_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS",
    "Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S",
)  # fmt: skip
"""Best first: the rise in perplexity that llama.cpp lists for Llama 3 8B (tools/quantize/quantize.cpp in the release
of llama-cpp-python 0.3.36: Q8_0 +0.0026, Q6_K +0.0217, Q5_K_M +0.0569, Q5_K_S +0.1049, Q5_1 +0.1062, Q5_0 +0.1316,
Q4_K_M +0.1754, Q4_K_S +0.2689, Q4_1 +0.4511, Q4_0 +0.4685, Q3_K_L +0.5562, Q3_K_M +0.6569, Q3_K_S +1.6321,
Q2_K_S +3.1836, Q2_K +3.5199). It lists no figure for the IQ types; they stand behind the K type of the next size up.
Q2_K_S, made with an importance matrix there, stands behind Q2_K here."""

EQUAL_TYPES = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Their difference in that list is less than its own scatter (F16 +0.0020, BF16 -0.0050): they share a place."""


def ranks(card: ModelCard) -> dict[str, int]:
    """Each variant's place among the card's, 0 is best.

    All are first put in the order of their file types (unknown types last, pruned files behind all whole ones); then
    those with a measured perplexity change places among themselves until they are in its order.
    """
    by_type = sorted(card.whole_variants, key=_type_key)
    measured = sorted((v for v in by_type if v.quality), key=_perplexity)
    slots = iter(measured)
    ordered = [next(slots) if variant.quality else variant for variant in by_type]
    places: dict[str, int] = {}
    for place, variant in enumerate(ordered):
        before = ordered[place - 1] if place else None
        is_equal = before is not None and _is_lossless(before) and _is_lossless(variant)
        places[variant.name] = places[before.name] if before and is_equal else place
    return places


def _is_lossless(variant: Variant) -> bool:
    return variant.quality is None and variant.layers is None and variant.file_type in EQUAL_TYPES


def _type_key(variant: Variant) -> tuple[bool, int, int, str]:
    kind = variant.file_type
    place = FILE_TYPES.index(kind) if kind in FILE_TYPES else len(FILE_TYPES)
    return (variant.layers is not None, place, -(variant.layers or 0), variant.name)


def _perplexity(variant: Variant) -> float:
    assert variant.quality is not None
    return variant.quality.perplexity
