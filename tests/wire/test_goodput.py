"""A link is known from a small block, also a long fast one, and a slow one soon enough."""

import pytest

from edgeagent.wire.blocks import BlockReceiver
from edgeagent.wire.goodput import LEAST_BYTES, LONGEST_S, Goodput
from edgeagent.wire.sending import BlockSender
from tests.wire.simulated_link import SimulatedLink

BLOCK_BYTES = 2**20
SAMPLE_S = 0.01


def probed(mbit_s: float, rtt_s: float) -> tuple[Goodput, float]:
    """What was found out, and when."""
    block = bytes(BLOCK_BYTES)
    link = SimulatedLink(BlockSender([(0, block)]), BlockReceiver({0: len(block)}), mbit_s * 125_000, rtt_s)
    link.run()
    found, now_s, total = Goodput(0.0), 0.0, 0
    arrivals = list(link.arrivals)
    while (arrivals or total < BLOCK_BYTES) and not found.is_enough(now_s):
        now_s += SAMPLE_S
        while arrivals and arrivals[0][0] <= now_s:
            total += arrivals.pop(0)[1]
        found.note(now_s, total)
    return found, now_s


@pytest.mark.parametrize(("mbit_s", "rtt_s"), [(0.5, 0.05), (3, 0.15), (5, 0.005), (12, 0.05), (50, 0.005), (50, 0.04)])
def test_rate_is_found_within_a_fourth(mbit_s: float, rtt_s: float) -> None:
    found, now_s = probed(mbit_s, rtt_s)
    assert found.bytes_s(now_s) * 8e-6 == pytest.approx(mbit_s, rel=0.25)
    assert now_s <= LONGEST_S + SAMPLE_S


def test_long_fast_link_is_not_taken_for_a_slow_one() -> None:
    found, now_s = probed(100, 0.15)
    whole = BLOCK_BYTES / now_s
    assert found.bytes_s(now_s) > 2 * whole


def test_slow_link_does_not_keep_a_request_waiting() -> None:
    found = Goodput(0.0)
    found.note(0.5, 1000)
    assert not found.is_enough(0.9)
    assert found.is_enough(LONGEST_S)
    assert found.bytes_s(LONGEST_S) == 2000


def test_nothing_that_came_is_a_very_slow_link_and_no_error() -> None:
    assert 0 < Goodput(5.0).bytes_s(6.0) <= 1.0


def test_steady_arrivals_are_enough_once_there_is_some() -> None:
    found = Goodput(0.0)
    for number in range(1, 50):
        found.note(number * SAMPLE_S, number * LEAST_BYTES // 40)
        assert found.is_enough(number * SAMPLE_S) is (number >= 40)
