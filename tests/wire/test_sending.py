"""The sender of blocks over simulated links: nothing lost, nothing twice, the link full, small messages not delayed."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeagent.core.errors import WireError
from edgeagent.wire.blocks import MAX_AHEAD, BlockReceiver
from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, GRAIN_BYTES
from edgeagent.wire.messages import Ack
from edgeagent.wire.sending import BlockSender
from edgeagent.wire.window import MAX_BYTES, Pace
from tests.wire.simulated_link import SimulatedLink

BLOCK_BYTES = 783_360
"""The cache of 64 tokens of the embedded model."""
MBIT = 125_000.0
STARTING_ROUND_TRIPS, STARTING_S = 10, 0.3
"""How long a sender that knows nothing may take to find the rate of a link."""
MAX_WAIT_S = 0.1


def never(_now_s: float, _draw: random.Random) -> bool:
    return False


def link_of(
    blocks: dict[int, bytes],
    bytes_s: float,
    rtt_s: float,
    *,
    jitter_s: float = 0.0,
    seed: int = 0,
    loses: Callable[[float, random.Random], bool] = never,
    pace: Pace | None = None,
) -> SimulatedLink:
    sender = BlockSender(reversed(blocks.items()), pace)
    receiver = BlockReceiver({i: len(b) for i, b in blocks.items()})
    return SimulatedLink(sender, receiver, bytes_s, rtt_s, jitter_s, seed, loses)


def cache(num_bytes: float) -> dict[int, bytes]:
    return {i: bytes([i % 256]) * BLOCK_BYTES for i in range(math.ceil(num_bytes / BLOCK_BYTES))}


@settings(max_examples=20)
@given(st.floats(0, 2), st.floats(0.005, 0.2))
@example(0, 0.005)
@example(0, 0.2)
@example(0.7, 0.005)
@example(2, 0.005)
@example(2, 0.2)
def test_link_is_full_and_small_messages_hardly_wait(log10_mbit: float, rtt_s: float) -> None:
    bytes_s = 10**log10_mbit * MBIT
    started_s = STARTING_ROUND_TRIPS * rtt_s + STARTING_S
    blocks = cache(bytes_s * (started_s + 2))
    link = link_of(blocks, bytes_s, rtt_s)
    link.run()
    assert link.receiver.blocks == blocks
    assert link.num_needless == 0
    assert link.max_wait_s <= MAX_WAIT_S
    assert link.max_flying <= MAX_BYTES
    until_s = started_s + 1.5
    assert link.goodput(started_s, until_s) >= 0.9 * bytes_s


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2 * FRAGMENT_DATA_BYTES), min_size=1, max_size=6),
    st.floats(-1, 2),
    st.floats(0.001, 0.3),
    st.sampled_from([0.0, 0.05]),
    st.floats(0, 0.3),
    st.integers(0, 2**32),
)
def test_blocks_arrive_once_over_a_link_that_loses(
    lengths: list[int], log10_mbit: float, rtt_s: float, jitter_s: float, loss: float, seed: int
) -> None:
    blocks = {i: bytes([i]) * length for i, length in enumerate(lengths)}
    link = link_of(
        blocks,
        10**log10_mbit * MBIT,
        rtt_s,
        jitter_s=jitter_s,
        seed=seed,
        loses=lambda _now_s, draw: draw.random() < loss,
    )
    link.run()
    assert sorted(link.completed) == sorted(blocks)
    assert link.receiver.blocks == blocks


@given(st.floats(0.3, 2), st.floats(0.005, 0.2), st.floats(0.3, 3), st.floats(0.1, 1.9), st.integers(0, 2**32))
@settings(max_examples=30)
def test_transfer_goes_on_where_it_was_after_the_connection_was_away(
    log10_mbit: float, rtt_s: float, cut_s: float, away_s: float, seed: int
) -> None:
    bytes_s = 10**log10_mbit * MBIT
    blocks = cache(bytes_s * (cut_s + 1))
    back_s = cut_s + away_s
    link = link_of(blocks, bytes_s, rtt_s, seed=seed, loses=lambda now_s, _draw: cut_s <= now_s < back_s)
    link.at(back_s, lambda: link.sender.resume(back_s))
    link.run()
    assert link.receiver.blocks == blocks
    # What is lost, and the questions of the silence: nothing that had come is sent again beyond one question each.
    assert link.num_needless <= 2


def test_remembered_pace_starts_sooner_and_not_too_fast() -> None:
    bytes_s, rtt_s = 50 * MBIT, 0.1
    blocks = cache(8e6)
    first = link_of(blocks, bytes_s, rtt_s)
    first.run()
    pace = first.sender.pace
    assert pace is not None
    assert pace.bytes_s == pytest.approx(bytes_s, rel=0.1)
    again = link_of(blocks, bytes_s, rtt_s, pace=pace)
    again.run()
    assert again.now_s < first.now_s - 2 * rtt_s
    assert again.max_wait_s <= MAX_WAIT_S


def test_link_that_becomes_slower_is_not_flooded_and_one_that_becomes_faster_is_used() -> None:
    rtt_s = 0.05
    link = link_of(cache(16e6), 20 * MBIT, rtt_s)
    link.at(1.0, lambda: setattr(link, "bytes_s", 4 * MBIT))
    link.at(3.0, lambda: setattr(link, "max_wait_s", 0.0))
    link.at(6.0, lambda: setattr(link, "bytes_s", 40 * MBIT))
    link.run(until_s=5.9)
    assert link.max_wait_s <= MAX_WAIT_S
    assert link.goodput(3, 5.5) >= 0.9 * 4 * MBIT
    link.run()
    assert link.goodput(7, 7.5) >= 0.9 * 40 * MBIT


def test_round_trip_that_becomes_longer_does_not_strangle_the_transfer() -> None:
    link = link_of(cache(30e6), 20 * MBIT, 0.02)
    link.at(1.0, lambda: setattr(link, "rtt_s", 0.3))
    link.run()
    assert link.goodput(6, 10) >= 0.7 * 20 * MBIT


def test_two_fragments_go_before_anything_is_known() -> None:
    sender = BlockSender([(0, bytes(10 * FRAGMENT_DATA_BYTES))])
    assert [(n, len(f.data)) for n, f in sender.take(0.0)] == [(0, GRAIN_BYTES), (1, GRAIN_BYTES)]
    assert sender.take(0.1) == []


def test_silence_is_asked_about_with_one_fragment_ever_more_rarely() -> None:
    sender = BlockSender([(0, bytes(10 * FRAGMENT_DATA_BYTES))])
    sender.take(0.0)
    asked = [t / 10 for t in range(100) if sender.take(t / 10)]
    assert asked == [1.0, 2.0, 4.0, 8.0]


def test_nothing_is_sent_further_ahead_than_the_bitmap_reaches() -> None:
    sender = BlockSender([(i, b"x") for i in range(4 * MAX_AHEAD)])
    sent: set[int] = set()
    for step in range(3 * MAX_AHEAD):
        now_s = step * 0.01
        sent |= {number for number, _ in sender.take(now_s)}
        bits = sum(1 << (n - 1) for n in sent if n)  # all but number 0 has come
        sender.acknowledge(Ack(base=0, bitmap=f"{bits << 1:x}"), now_s)
    assert max(sent) == MAX_AHEAD - 1


@pytest.mark.parametrize("ack", [Ack(base=3), Ack(base=1, bitmap="4")])
def test_acknowledging_what_was_never_sent_is_refused(ack: Ack) -> None:
    sender = BlockSender([(0, bytes(2 * GRAIN_BYTES))])
    sender.take(0.0)
    with pytest.raises(WireError):
        sender.acknowledge(ack, 0.1)


def test_blocks_made_at_the_other_end_are_not_sent() -> None:
    sender = BlockSender([(2, b"c"), (1, bytes(8 * GRAIN_BYTES)), (0, b"a")])
    assert [f.block for _, f in sender.take(0.0)] == [2, 1]
    sender.skip_before(2)
    sender.acknowledge(Ack(base=2), 0.1)
    assert sender.take(0.2) == []
    assert sender.is_done


def test_nothing_goes_after_a_cancellation() -> None:
    sender = BlockSender([(0, bytes(8 * GRAIN_BYTES))])
    sender.take(0.0)
    sender.cancel()
    sender.acknowledge(Ack(base=1), 0.1)
    assert sender.take(9.0) == []
    assert sender.is_done
