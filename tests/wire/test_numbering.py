"""Messages arrive once and in order over a way that loses and repeats."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import PeerLostError, WireError
from edgeagent.wire.messages import Progress, Said
from edgeagent.wire.numbering import MAX_KEPT, OVERDUE_S, Incoming, Order, Outgoing


@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0, 0.8))
def test_every_message_arrives_once_and_in_order_when_what_is_overdue_is_said_again(
    seed: int, num_messages: int, lost_part: float
) -> None:
    draw, now_s = random.Random(seed), 0.0
    outgoing, incoming, arrived = Outgoing(), Incoming(), list[int]()

    def carry(messages: list[Said]) -> None:
        for message in messages:
            for _ in range(draw.choice((1, 1, 2))):
                assert isinstance(message, Progress)
                assert message.number is not None
                if draw.random() >= lost_part and incoming.take(message.number) is Order.NEXT:
                    arrived.append(message.blocks)

    for i in range(num_messages):
        carry([outgoing.add(Progress(blocks=i), now_s)])
    for _ in range(2000):
        now_s += OVERDUE_S / 3
        if draw.random() >= lost_part:
            outgoing.note_seen(incoming.seen, now_s)
        if outgoing.is_overdue(now_s):
            carry(outgoing.again(now_s))
    assert arrived == list(range(num_messages))
    outgoing.note_seen(incoming.seen, now_s)
    assert outgoing.again(now_s) == []


def test_missing_message_is_asked_for_once() -> None:
    incoming = Incoming()
    assert [incoming.take(n) for n in (0, 2, 0, 3)] == [Order.NEXT, Order.EARLY, Order.AGAIN, Order.EARLY]
    assert [incoming.is_news(), incoming.is_news()] == [True, False]
    assert incoming.take(1) is Order.NEXT
    assert incoming.is_news()


def test_messages_that_were_never_said_cannot_be_acknowledged() -> None:
    outgoing = Outgoing()
    outgoing.add(Progress(blocks=1), 0.0)
    with pytest.raises(WireError, match="before it was sent"):
        outgoing.note_seen(2, 0.0)


def test_end_that_acknowledges_nothing_is_lost_before_memory_is() -> None:
    outgoing = Outgoing()
    for _ in range(MAX_KEPT):
        outgoing.add(Progress(blocks=1), 0.0)
    with pytest.raises(PeerLostError):
        outgoing.add(Progress(blocks=1), 0.0)
