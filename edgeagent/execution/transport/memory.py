"""A transport inside one process: the same payloads through the same codecs, without a broker."""

from edgeagent.core.errors import PeerLostError
from edgeagent.execution.transport.base import Subscription, topic_matches
from edgeagent.wire.frames import MAX_FRAME_BYTES


class MemoryBroker:
    """Delivers to every transport made by `connect`; keeps retained payloads."""

    def __init__(self) -> None:
        self.transports: list[MemoryTransport] = []
        self.retained: dict[str, bytes] = {}

    def connect(self) -> "MemoryTransport":
        transport = MemoryTransport(self)
        self.transports.append(transport)
        return transport

    def deliver(self, topic: str, payload: bytes) -> None:
        for transport in self.transports:
            transport.receive(topic, payload)


class MemoryTransport:
    """See `base.Transport`. `cut` behaves like a lost connection."""

    max_payload_bytes = MAX_FRAME_BYTES

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._subscriptions: list[Subscription] = []
        self.is_connected = True

    def publish(self, topic: str, payload: bytes, *, bulk: bool = False, retain: bool = False) -> None:
        del bulk
        if not self.is_connected:
            raise PeerLostError("the connection to the broker is lost; it is tried again by itself")
        if retain:
            self._broker.retained[topic] = payload
        self._broker.deliver(topic, payload)

    def subscribe(self, topic_filter: str, *, bulk: bool = False) -> Subscription:
        del bulk
        subscription = Subscription(topic_filter)
        self._subscriptions.append(subscription)
        for topic, payload in self._broker.retained.items():
            if topic_matches(topic_filter, topic):
                subscription.put(topic, payload)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    def receive(self, topic: str, payload: bytes) -> None:
        if self.is_connected:
            for subscription in self._subscriptions:
                if topic_matches(subscription.topic_filter, topic):
                    subscription.put(topic, payload)

    def cut(self) -> None:
        self.is_connected = False
        for subscription in self._subscriptions:
            subscription.put_lost("the connection to the broker is lost")

    async def close(self) -> None:
        self._broker.transports.remove(self)
