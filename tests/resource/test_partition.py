"""Layers divided between devices in a row: never worse than any other division, and what limits and slow devices do."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.resource.partition import Device, Load, Part, Row, Way, finish, partition

LAYERS = 7
seconds = st.floats(0, 10)


def every(row: Row) -> Iterator[tuple[Part, ...]]:
    """Each division that the limits allow, by trying all."""
    num = len(row.devices)
    for size in range(1, num + 1):
        for others in itertools.combinations(range(1, num), size - 1):
            used = (0, *others)
            if any(pair not in row.ways for pair in itertools.pairwise(used)):
                continue
            for borders in itertools.combinations(row.cuts, size - 1):
                begins, ends = (0, *borders), (*borders, row.layers)
                parts = tuple(Part(*each) for each in zip(used, begins, ends, strict=True))
                if _is_allowed(row, parts):
                    yield parts


def _is_allowed(row: Row, parts: tuple[Part, ...]) -> bool:
    *before, last = parts
    heads_fit = not before or before[0].end in row.heads
    fits = all(part.end - part.begin <= row.devices[part.device].most_between for part in before)
    return heads_fit and fits and last.begin in row.devices[last.device].tails


def total_s(row: Row, load: Load, parts: tuple[Part, ...]) -> float:
    times = finish(row, load, parts)
    return times.first_s + load.steps * times.step_s


@st.composite
def rows(draw: st.DrawFn) -> Row:
    num = draw(st.integers(1, 4))
    places = st.sets(st.integers(0, LAYERS - 1))
    device = st.builds(Device, seconds, seconds, seconds, seconds, seconds, places, st.integers(0, LAYERS))
    devices = [draw(device) for _ in range(num)]
    pairs = draw(st.sets(st.sampled_from([*itertools.combinations(range(4), 2)])))
    ways = {pair: Way(draw(seconds), draw(seconds), draw(seconds)) for pair in sorted(pairs) if pair[1] < num}
    cuts = sorted(draw(st.sets(st.integers(1, LAYERS - 1))))
    heads = [cut for cut in cuts if draw(st.booleans())]
    return Row(devices, ways, LAYERS, cuts, heads)


loads = st.builds(Load, st.integers(1, 40), st.integers(0, 200))


@given(rows(), loads)
def test_no_other_division_is_sooner(row: Row, load: Load) -> None:
    found, allowed = partition(row, load), list(every(row))
    assert (found is None) == (not allowed)
    if found is not None:
        assert found in allowed
        assert total_s(row, load, found) == pytest.approx(min(total_s(row, load, parts) for parts in allowed))


@given(rows(), loads)
def test_none_through_all_devices_is_sooner(row: Row, load: Load) -> None:
    found = partition(row, load, through_all=True)
    allowed = [parts for parts in every(row) if len(parts) == len(row.devices)]
    assert (found is None) == (not allowed)
    if found is not None:
        assert found in allowed
        assert total_s(row, load, found) == pytest.approx(min(total_s(row, load, parts) for parts in allowed))


@given(rows(), loads)
def test_another_device_never_delays(row: Row, load: Load) -> None:
    """It gets no layers where it would."""
    found = partition(row, load)
    fewer = replace(row, devices=row.devices[:-1]) if len(row.devices) > 1 else row
    less = partition(fewer, load)
    if less is not None:
        assert found is not None
        assert total_s(row, load, found) <= total_s(row, load, less) * (1 + 1e-9)


@given(rows(), loads, st.integers(0, 3), st.floats(0, 1))
def test_faster_device_never_delays(row: Row, load: Load, index: int, factor: float) -> None:
    before = partition(row, load)
    if before is None or index >= len(row.devices):
        return
    old = row.devices[index]
    new = replace(old, chunk_s=old.chunk_s * factor, step_s=old.step_s * factor)
    faster = replace(row, devices=[new if i == index else each for i, each in enumerate(row.devices)])
    after = partition(faster, load)
    assert after is not None
    assert total_s(faster, load, after) <= total_s(row, load, before) * (1 + 1e-9)


EVEN = Device(1.0, 0.1, tails=range(LAYERS), most_between=LAYERS)
NEAR = Way(0.0, 0.01, 0.001)
ALL_CUTS = range(1, LAYERS)
THREE = Row([EVEN] * 3, {(0, 1): NEAR, (0, 2): NEAR, (1, 2): NEAR}, LAYERS, ALL_CUTS, ALL_CUTS)


def layers_of(row: Row, load: Load) -> dict[int, int]:
    found = partition(row, load)
    assert found is not None
    return {part.device: part.end - part.begin for part in found}


def test_one_device_runs_all() -> None:
    assert partition(replace(THREE, devices=[EVEN], ways={}), Load(9, 9)) == (Part(0, 0, LAYERS),)


def test_equal_devices_share_a_long_prompt_and_no_answer() -> None:
    assert sorted(layers_of(THREE, Load(100, 0)).values()) == [2, 2, 3]
    assert layers_of(THREE, Load(1, 100)) == {0: LAYERS}  # a pipeline of one token gains nothing


def test_device_that_would_slow_it_gets_no_layers() -> None:
    slow = replace(EVEN, chunk_s=50.0)
    assert 1 not in layers_of(replace(THREE, devices=[EVEN, slow, EVEN]), Load(100, 0))
    far = {**THREE.ways, (0, 1): Way(0.0, 9.0, 0.0)}
    assert 1 not in layers_of(replace(THREE, ways=far), Load(100, 0))


def test_memory_bounds_how_many_layers_a_device_gets() -> None:
    small = replace(EVEN, chunk_s=0.1, most_between=2, tails=())
    assert layers_of(replace(THREE, devices=[EVEN, small, EVEN]), Load(100, 0))[1] == 2
    only_end = replace(EVEN, tails=(6,))
    assert layers_of(replace(THREE, devices=[replace(EVEN, tails=()), EVEN, only_end]), Load(100, 0)).get(2, 0) <= 1


def test_stages_end_at_legal_cuts_alone() -> None:
    found = partition(replace(THREE, cuts=(3, 6), heads=(3,)), Load(100, 0))
    assert found is not None
    assert {part.end for part in found} <= {3, 6, LAYERS}


def test_nobody_who_could_end_the_model_is_no_division() -> None:
    assert partition(replace(THREE, devices=[replace(EVEN, tails=())] * 3), Load(1, 1)) is None
