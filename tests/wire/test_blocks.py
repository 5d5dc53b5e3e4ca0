import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import WireError
from edgeagent.wire.blocks import MAX_AHEAD, BlockReceiver, BlockSender
from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, cut_fragments
from edgeagent.wire.messages import Ack

sizes = st.lists(st.integers(0, 3 * FRAGMENT_DATA_BYTES), min_size=1, max_size=5)


@given(sizes, st.integers(1, 8), st.integers(0, 2**32))
def test_blocks_arrive_once_over_a_link_that_loses_repeats_and_reorders(
    lengths: list[int], window: int, seed: int
) -> None:
    draw = random.Random(seed)
    blocks = {i: bytes([i]) * length for i, length in enumerate(lengths)}
    sender = BlockSender(reversed(blocks.items()), window)
    receiver = BlockReceiver({i: len(b) for i, b in blocks.items()})
    arrived: list[int] = []
    for _ in range(400):
        if sender.is_done:
            break
        flying = sender.take() + (sender.unacknowledged() if draw.random() < 0.5 else [])
        draw.shuffle(flying)
        for number, fragment in flying:
            if draw.random() < 0.8:
                completed = receiver.take(number, fragment)
                arrived += [completed] if completed is not None else []
        if draw.random() < 0.8:
            sender.acknowledge(receiver.ack())
    assert sorted(arrived) == sorted(blocks)
    assert receiver.blocks == blocks


def test_sender_keeps_its_window() -> None:
    sender = BlockSender([(0, bytes(10 * FRAGMENT_DATA_BYTES))], window=3)
    assert [number for number, _ in sender.take()] == [0, 1, 2]
    assert sender.take() == []
    sender.acknowledge(Ack(base=1, bitmap="2"))  # 0 and 2 came, 1 did not
    assert [number for number, _ in sender.take()] == [3, 4]


def test_block_that_differs_from_its_digest_is_refused() -> None:
    [fragment] = cut_fragments(0, b"good")
    receiver = BlockReceiver({0: 4})
    with pytest.raises(WireError, match="digest"):
        receiver.take(0, type(fragment)(0, 0, 4, fragment.digest, b"evil"))


@pytest.mark.parametrize("size", [3, 5])
def test_block_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(WireError, match="not expected"):
        BlockReceiver({0: 4}).take(0, cut_fragments(0, bytes(size))[0])


def test_number_far_ahead_is_refused() -> None:
    with pytest.raises(WireError, match="ahead"):
        BlockReceiver({0: 4}).take(MAX_AHEAD, cut_fragments(0, bytes(4))[0])


def test_acknowledging_what_was_never_sent_is_refused() -> None:
    with pytest.raises(WireError):
        BlockSender([(0, b"x")]).acknowledge(Ack(base=1))


def test_blocks_made_at_the_other_end_are_not_sent() -> None:
    sender = BlockSender([(2, b"c"), (1, b"b"), (0, b"a")], window=1)
    sender.take()
    sender.skip_before(2)
    sender.acknowledge(Ack(base=1))
    assert sender.take() == []
    assert sender.is_done
