"""A transport inside one process: the same payloads through the same codecs, without a broker."""

from edgeagent.core.errors import PeerLostError
from edgeagent.execution.transport.base import Returns, Subscription
from edgeagent.wire.frames import MAX_FRAME_BYTES


class MemoryBroker:
    """Delivers to every transport made by `connect`; keeps retained payloads."""

    def __init__(self) -> None:
        self.transports: list[MemoryTransport] = []
        self.retained: dict[str, bytes] = {}
        self._turns: dict[str, int] = {}

    def connect(self) -> "MemoryTransport":
        transport = MemoryTransport(self)
        self.transports.append(transport)
        return transport

    def deliver(self, topic: str, payload: bytes) -> None:
        for transport in self.transports:
            transport.receive(topic, payload)
        self._deliver_shared(topic, payload)

    def _deliver_shared(self, topic: str, payload: bytes) -> None:
        """To each group's member whose turn it is."""
        groups: dict[str, list[Subscription]] = {}
        for subscription in (s for transport in self.transports for s in transport.shared(topic)):
            groups.setdefault(subscription.topic_filter, []).append(subscription)
        for name, members in groups.items():
            turn = self._turns[name] = self._turns.get(name, -1) + 1
            members[turn % len(members)].put(topic, payload)


class MemoryTransport:
    """See `base.Transport`. `cut` behaves like a lost connection."""

    max_payload_bytes = MAX_FRAME_BYTES

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._subscriptions: list[Subscription] = []
        self.is_connected = True
        self.returns = Returns()

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
            if subscription.takes(topic) and not subscription.is_shared:
                subscription.put(topic, payload)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    def receive(self, topic: str, payload: bytes) -> None:
        if self.is_connected:
            for subscription in self._subscriptions:
                if subscription.takes(topic) and not subscription.is_shared:
                    subscription.put(topic, payload)

    def shared(self, topic: str) -> list[Subscription]:
        """Those of a group that would take it."""
        return [s for s in self._subscriptions if self.is_connected and s.is_shared and s.takes(topic)]

    def cut(self) -> None:
        self.is_connected = False
        for subscription in self._subscriptions:
            subscription.put_lost("the connection to the broker is lost")

    def mend(self) -> None:
        """The connection is back; what was published meanwhile is lost."""
        self.is_connected = True
        self.returns.note()

    async def close(self) -> None:
        self._broker.transports.remove(self)
