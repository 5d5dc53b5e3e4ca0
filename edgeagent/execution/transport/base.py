"""What a transport does: publish payloads to topics, and yield what arrives. Two connections, small and bulk."""

import asyncio
from typing import Protocol

from edgeagent.core.errors import PeerLostError

MAX_QUEUED = 512
"""Payloads a subscription holds for a slow reader; 64 KiB each at most, so memory stays bounded."""


class Subscription:
    """Arrived `(topic, payload)` pairs, in order. What arrives while the queue is full is dropped and counted:
    every protocol above acknowledges what it must not lose."""

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.num_dropped = 0
        self._queue: asyncio.Queue[tuple[str, bytes] | PeerLostError] = asyncio.Queue()

    def put(self, topic: str, payload: bytes) -> None:
        if self._queue.qsize() >= MAX_QUEUED:
            self.num_dropped += 1
            return
        self._queue.put_nowait((topic, payload))

    def put_lost(self, reason: str) -> None:
        """Wake the reader: the connection is gone."""
        self._queue.put_nowait(PeerLostError(reason))

    async def get(self) -> tuple[str, bytes]:
        """The next payload. Raises PeerLostError once for each loss of the connection."""
        item = await self._queue.get()
        if isinstance(item, PeerLostError):
            raise item
        return item


class Transport(Protocol):
    """A connection to a broker. `bulk` picks the second connection, so that tokens never wait behind tensors."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload the broker takes."""
        ...

    def publish(self, topic: str, payload: bytes, *, bulk: bool = False, retain: bool = False) -> None:
        """Queue a payload for sending at QoS 1. Raises PeerLostError without a connection."""
        ...

    def subscribe(self, topic_filter: str, *, bulk: bool = False) -> Subscription: ...

    def unsubscribe(self, subscription: Subscription) -> None: ...

    async def close(self) -> None: ...


def topic_matches(topic_filter: str, topic: str) -> bool:
    """MQTT's matching of `+` and `#` (MQTT 5, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
