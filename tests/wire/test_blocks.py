import pytest

from edgeagent.core.errors import WireError
from edgeagent.wire.blocks import MAX_AHEAD, BlockReceiver
from edgeagent.wire.frames import cut_fragments
from edgeagent.wire.messages import MAX_BLOCKS


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


def test_block_that_was_fetched_may_come_again_and_is_not_expected_anew() -> None:
    receiver, [fragment] = BlockReceiver({0: 4}), cut_fragments(0, b"good")
    assert receiver.take(0, fragment) == 0
    assert receiver.pop(0) == b"good"
    assert receiver.take(0, fragment) is None
    assert receiver.blocks == {}


def test_blocks_may_become_expected_later() -> None:
    receiver, [fragment] = BlockReceiver({}), cut_fragments(7, b"good")
    with pytest.raises(WireError, match="not expected"):
        receiver.take(0, fragment)
    receiver.expect({7: 4})
    assert receiver.take(0, fragment) == 7


def test_more_blocks_than_a_session_may_owe_are_refused() -> None:
    receiver = BlockReceiver(dict.fromkeys(range(MAX_BLOCKS), 1))
    with pytest.raises(WireError, match="owed"):
        receiver.expect({MAX_BLOCKS: 1})
