"""What a transport does: publish payloads to topics, and yield what arrives. Two connections, small and bulk."""

import asyncio
from typing import Protocol

from edgeagent.core.errors import PeerLostError

MAX_QUEUED = 512
"""Payloads a subscription holds for a slow reader; 64 KiB each at most, so memory stays bounded."""

SHARE = "$share/"
"""How the filter of a shared subscription begins; its group follows (MQTT 5, section 4.8.2)."""


class Subscription:
    """Arrived `(topic, payload)` pairs, in order. What arrives while the queue is full is dropped and counted:
    every protocol above acknowledges what it must not lose."""

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.num_dropped = 0
        self._queue: asyncio.Queue[tuple[str, bytes] | PeerLostError] = asyncio.Queue()

    @property
    def is_shared(self) -> bool:
        """Whether the broker gives each payload to one of those that subscribe alike."""
        return self.topic_filter.startswith(SHARE)

    def takes(self, topic: str) -> bool:
        pattern = self.topic_filter.split("/", 2)[2] if self.is_shared else self.topic_filter
        return topic_matches(pattern, topic)

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


class Returns:
    """How often a connection came back after it was lost."""

    def __init__(self) -> None:
        self.num = 0
        self._came = asyncio.Event()

    def note(self) -> None:
        self.num += 1
        self._came.set()

    async def after(self, num: int) -> int:
        """How often by now, once that is more than `num`."""
        while self.num <= num:
            self._came.clear()
            await self._came.wait()
        return self.num


class Transport(Protocol):
    """A connection to a broker. `bulk` picks the second connection, so that tokens never wait behind tensors."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def returns(self) -> Returns: ...

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
