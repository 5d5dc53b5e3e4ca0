"""Leaving out what is said twice."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.plan import ReductionLevel
from edgeagent.model.reduction import DUPLICATE, Sentence
from edgeagent.model.repeats import MERGED, NEAR, repeated, without_repeats
from edgeagent.model.wording import facts, words

PHRASES = (
    "The pump was descaled in May by Ann. ",
    "The pump was descaled in June by Ann. ",
    "The pump was not descaled in May by Ann. ",
    "The pump was, in May, descaled by Ann. ",
    "The old pump was carefully descaled in May by Ann and Bob. ",
    "Yes. ",
    "# Pump\n\n",
)


def prose(*texts: str, protected: tuple[int, ...] = ()) -> list[Sentence]:
    return [Sentence("doc", i, text, len(text.split()), protected=i in protected) for i, text in enumerate(texts)]


@given(st.lists(st.sampled_from(PHRASES), max_size=12), st.sets(st.integers(0, 11)))
def test_no_name_number_or_negation_is_lost(texts: list[str], protected: set[int]) -> None:
    sentences = prose(*texts, protected=tuple(protected))
    selection = without_repeats(sentences)
    left = {word.bare for s in selection.kept for word in words(s.text)}
    assert frozenset().union(*map(facts, texts)) - {"#"} <= left
    assert {s.index for s in sentences if s.protected} <= {s.index for s in selection.kept}
    assert selection.report.level is ReductionLevel.L1
    assert selection.report.tokens_kept + sum(d.tokens for d in selection.report.dropped) == selection.report.tokens_in


def test_exact_near_and_contained_repeats_go_each_for_its_reason() -> None:
    sentences = prose(
        "The pump was descaled in May by Ann. ",
        "Water the plants on the sill every day. ",
        "The pump was descaled in May by Ann. ",
        "Water the plants on the sill, every day! ",
        "Please water the plants on the kitchen sill every single day before noon. ",
    )
    assert repeated(sentences) == {2: DUPLICATE, 3: NEAR, 1: MERGED}


def test_sentences_that_differ_in_a_number_a_name_or_a_negation_all_stay() -> None:
    base = "the valve opens at a pressure of 3 bar when Ann turns the red wheel slowly. "
    variants = (base, base.replace("3", "4"), base.replace("Ann", "Bob"), base.replace("opens", "never opens"))
    assert repeated(prose(*variants)) == {}


def test_the_same_heading_over_two_parts_stays_and_so_does_a_short_reply() -> None:
    assert repeated(prose("## Care\n\n", "Descale it twice. ", "## Care\n\n", "Yes, please do. ", "Yes please. ")) == {}


def test_an_earlier_repeat_gives_way_to_a_protected_one() -> None:
    text = "The pump was descaled in May by Ann. "
    assert repeated(prose(text, text, protected=(1,))) == {0: DUPLICATE}
