"""The common budget: who must go, who never goes, and how many sequences fit."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.model.budget import Admission, Holding, Room, admit, memory_of, sequences_within, tell

MB = 10**6
SIZES = st.integers(0, 2000).map(lambda n: n * MB)
HOLDINGS = st.lists(
    st.builds(
        Holding,
        name=st.uuids().map(str),
        forecast_bytes=SIZES,
        resident_bytes=SIZES,
        is_in_use=st.booleans(),
        used_at_s=st.floats(0, 1000),
    ),
    max_size=6,
)
ROOMS = st.builds(Room, free_bytes=SIZES, total_bytes=st.none() | SIZES)


def idle(name: str, size: int, used_at_s: float) -> Holding:
    return Holding(name, size * MB, size * MB, False, used_at_s)


def names(found: Admission) -> tuple[str, ...]:
    return tuple(holding.name for holding in found.unload)


def test_longest_unused_goes_first_and_only_as_many_as_needed() -> None:
    holdings = [idle("new", 300, 9.0), idle("old", 300, 1.0), idle("middle", 300, 5.0)]
    assert names(admit(200 * MB, holdings, Room(200 * MB))) == ()
    assert names(admit(400 * MB, holdings, Room(200 * MB))) == ("old",)
    assert names(admit(700 * MB, holdings, Room(200 * MB))) == ("old", "middle")
    found = admit(1200 * MB, holdings, Room(200 * MB))
    assert (found.fits, names(found), found.is_hopeless) == (False, (), True)


def test_small_one_that_would_not_have_helped_stays() -> None:
    holdings = [idle("small", 50, 1.0), idle("large", 500, 2.0)]
    assert names(admit(600 * MB, holdings, Room(100 * MB))) == ("large",)


def test_caches_that_still_fill_count() -> None:
    growing = Holding("a", 500 * MB, 300 * MB, True, 0.0)
    assert admit(300 * MB, [growing], Room(500 * MB)).fits
    assert not admit(301 * MB, [growing], Room(500 * MB)).fits


def test_forecast_that_was_too_low_is_corrected_by_what_is_measured() -> None:
    fat = Holding("a", 300 * MB, 500 * MB, True, 0.0)
    assert admit(500 * MB, [fat], Room(10**12, 1000 * MB)).fits
    assert not admit(501 * MB, [fat], Room(10**12, 1000 * MB)).fits


def test_one_in_use_is_waited_for_not_unloaded() -> None:
    busy = Holding("a", 500 * MB, 500 * MB, True, 0.0)
    found = admit(400 * MB, [busy], Room(100 * MB))
    assert not found.fits
    assert not found.is_hopeless
    assert "a 500.0 MB in use" in tell([busy])


@given(SIZES, HOLDINGS, ROOMS)
def test_whatever_is_admitted_fits_and_nobody_in_use_goes(wanted: int, holdings: list[Holding], room: Room) -> None:
    found = admit(wanted, holdings, room)
    leaving = [h for h in holdings if h in found.unload]
    staying = [h for h in holdings if h not in found.unload]
    assert not any(h.is_in_use for h in leaving)
    assert room.fits(wanted, staying, leaving) is found.fits or not found.fits
    for one in leaving:  # each was needed
        others = [h for h in leaving if h is not one]
        assert not room.fits(wanted, [*staying, one], others)
    if not found.fits:
        movable = [h for h in holdings if not h.is_in_use]
        assert not found.unload
        assert not room.fits(wanted, [h for h in holdings if h.is_in_use], movable)


@given(st.integers(1, 64), SIZES, st.integers(1, 10**9), SIZES)
def test_sequences_fit_and_one_more_would_not(wanted: int, one: int, sequence: int, memory: int) -> None:
    count = sequences_within(wanted, one, sequence, memory)
    assert 1 <= count <= wanted
    if count > 1:
        assert memory_of(count, one, sequence) <= memory
    if count < wanted:
        assert memory_of(count + 1, one, sequence) > memory
    assert sequences_within(wanted, one, 0, memory) == wanted


@given(st.integers(1, 64), SIZES, st.integers(1, 10**9), SIZES, SIZES)
def test_more_memory_never_means_fewer_sequences(wanted: int, one: int, sequence: int, less: int, more: int) -> None:
    low, high = sorted((less, more))
    assert sequences_within(wanted, one, sequence, low) <= sequences_within(wanted, one, sequence, high)
