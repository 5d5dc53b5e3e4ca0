"""Measured speeds: how the measurement is sized, and that it measures."""

import asyncio

import pytest

from edgeagent.core.hardware import Rates
from edgeagent.resource.calibration import (
    MIN_BUFFER_BYTES,
    buffer_bytes,
    measure_bandwidth,
    reference_s,
    round_sizes,
    thread_candidates,
)

GIB = 2**30


@pytest.mark.parametrize(("cores", "expected"), [(1, (1,)), (2, (2, 1)), (4, (4, 2, 1)), (6, (6, 4, 2, 1))])
def test_thread_candidates_are_all_cores_and_the_powers_of_two_below(cores: int, expected: tuple[int, ...]) -> None:
    assert thread_candidates(cores) == expected


@pytest.mark.parametrize(
    ("cache", "available", "expected"),
    [(0, 8 * GIB, MIN_BUFFER_BYTES), (32 * 2**20, 8 * GIB, GIB // 4), (32 * 2**20, GIB // 2, GIB // 8)],
)
def test_buffer_dwarfs_the_cache_and_spares_the_memory(cache: int, available: int, expected: int) -> None:
    assert buffer_bytes(cache, available) == expected


@pytest.mark.parametrize(
    ("prefill", "decode", "chunk", "expected"),
    [(5, 2, 64, (64, 8)), (400, 50, 64, (128, 15)), (90_000, 9_000, 64, (256, 64)), (900, 50, 256, (256, 15))],
)
def test_round_is_whole_chunks_sized_by_speed(
    prefill: float, decode: float, chunk: int, expected: tuple[int, int]
) -> None:
    assert round_sizes(prefill, decode, chunk) == expected


def test_reference_request_weighs_prefill_and_decode() -> None:
    quick_prefill = Rates(prefill_tok_s=1000, decode_tok_s=10)
    quick_decode = Rates(prefill_tok_s=100, decode_tok_s=100)
    assert reference_s(quick_prefill) == pytest.approx(11)
    assert reference_s(quick_decode) == pytest.approx(11)


def test_bandwidth_of_this_machine_is_measured_in_a_child() -> None:
    found = asyncio.run(measure_bandwidth(MIN_BUFFER_BYTES, 1))
    assert found is not None
    assert found > 1e8


def test_bandwidth_child_that_gets_no_memory_yields_none() -> None:
    assert asyncio.run(measure_bandwidth(2**60, 1)) is None
