"""Fronts and the policy: nothing dominated is chosen, and more memory never gets less quality."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.model.footprint import Setup
from edgeagent.model.forecast import Speed
from edgeagent.model.limits import Objective
from edgeagent.model.pareto import Axes, Entry, choose, dominates, front
from edgeagent.model.placement import Option, Placement

PLACEMENT = Placement(Setup(1024, "q8_0", flash_attention=True, chunk_tokens=64))
OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "quality")


@dataclass(frozen=True)
class Point:
    axes: Axes


def entry(
    rank: int, memory: int, seconds: float | None, *, reaches: bool = True, energy_j: float | None = None
) -> Entry:
    speed = Speed(seconds, 0.01, 1, "measured") if seconds else None
    return Entry(f"v{rank}", rank, False, 0, Option(PLACEMENT, memory, speed), reaches, energy_j)


entries = st.lists(
    st.builds(
        entry,
        st.integers(0, 4),
        st.integers(1, 9),
        st.none() | st.floats(0.1, 9),
        reaches=st.booleans(),
        energy_j=st.none() | st.floats(1, 9),
    ),
    min_size=1,
    max_size=8,
)
axes = st.lists(st.tuples(*[st.none() | st.integers(0, 3).map(float)] * 3).map(Point), max_size=8)


@given(axes)
def test_front_is_what_nothing_dominates(points: list[Point]) -> None:
    for point, is_on in zip(points, front(points), strict=True):
        assert is_on == (not any(dominates(other.axes, point.axes) for other in points))
    assert not points or any(front(points))


def test_unknown_figures_dominate_nothing() -> None:
    assert dominates((1, 1), (1, 2))
    assert not dominates((1, None), (1, 2))
    assert not dominates((1, 1), (1, 1))
    assert dominates((0, None), (1, None))


@settings(max_examples=500)
@given(entries, st.integers(1, 9), st.integers(1, 9), st.sampled_from(OBJECTIVES))
def test_more_memory_never_chooses_worse_quality(
    found: list[Entry], memory: int, extra: int, objective: Objective
) -> None:
    less, more = choose(found, memory, objective), choose(found, memory + extra, objective)
    if less is not None:
        assert less.option.least_bytes <= memory
        assert more is not None
        assert more.quality <= less.quality


@given(entries, st.sampled_from(OBJECTIVES), st.randoms())
def test_order_of_the_options_does_not_matter(found: list[Entry], objective: Objective, random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = choose(found, 9, objective), choose(shuffled, 9, objective)
    assert one is not None
    assert other is not None
    assert (one.quality, one.option) == (other.quality, other.option)


def test_faster_but_worse_variant_is_not_taken_where_less_memory_gets_the_better() -> None:
    better, faster = entry(0, 1, 20.0, reaches=False), entry(1, 2, 5.0)
    assert choose([better, faster], 2, "latency") is better
    assert choose([faster], 2, "latency") is faster


def test_targets_decide_between_what_is_reached_and_quality() -> None:
    slow, quick = entry(0, 2, 20.0, reaches=False), entry(1, 1, 5.0)
    assert choose([slow, quick], 2, "latency") is quick
    assert choose([slow, quick], 2, "quality") is slow


def test_energy_decides_where_it_is_known() -> None:
    assert choose([entry(0, 2, 5.0, energy_j=9), entry(1, 1, 5.0, energy_j=4)], 2, "energy") == entry(
        1, 1, 5.0, energy_j=4
    )


def test_nothing_fits_chooses_nothing() -> None:
    assert choose([entry(0, 5, 1.0)], 4, "latency") is None
