"""The MQTT 5 transport: paho-mqtt in its own threads, one connection for messages and one for bulk."""

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeagent.core.errors import ConfigError, PeerLostError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.transport.base import Returns, Subscription
from edgeagent.wire.frames import MAX_FRAME_BYTES

log = logging.getLogger(__name__)

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 15
SESSION_EXPIRY_S = 5
"""What the broker keeps for a connection that is away, longer than a lease. Not much longer: of a peer that was killed,
offers go nowhere for so long."""
RECONNECT_S, MAX_RECONNECT_S = 0.15, 8.0
"""Between two tries to connect again: the first within a lease, then twofold. Each client has its own first one, a half
to one and a half of it, so that a broker that comes back does not meet all at once."""
TAKEN_OVER_S, MAX_TAKEN_OVER_S = 30.0, 120.0
"""The same for one whose client id another process uses, too: both cannot be there."""
MAX_IN_FLIGHT = 16
MAX_WAITING = 1024
TAKEN_OVER = "Session taken over"
MAX_TOLD = 100
"""Characters of a topic in a log."""
PACKET_OVERHEAD_BYTES = 512  # topic and properties beside the payload
ALL_BYTES = 268_435_455  # the protocol's own limit (MQTT 5, section 2.1.4)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """`ca_file`: who must have signed the broker's certificate; empty: whom the system trusts.

    `loopback`: what `host` stood for when it was found to be on this machine. Connections go there, and the name is not
    asked for again: it might stand for somebody else by then. Empty: it is elsewhere, and asked for each time.
    """

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    has_tls: bool = False
    ca_file: str = ""
    loopback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LastWill:
    topic: str
    payload: bytes


def parse_address(
    url: str, username: str = "", password: str = "", ca_file: str = "", *, is_enrolled: bool = False
) -> BrokerAddress:
    """The broker behind `mqtt[s]://host[:port]`.

    Raises ConfigError; off loopback also for a machine that is in no fleet, whose frames nobody would seal, and for a
    password that would travel in the clear.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise ConfigError(f"mqtt.url '{url}' is not an address ({error}); write mqtt://127.0.0.1:1883") from None
    if parts.scheme not in DEFAULT_PORTS or not host or parts.path not in ("", "/"):
        raise ConfigError(f"mqtt.url '{url}' is not an address; write mqtt://127.0.0.1:1883")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("mqtt.url holds more than a host and a port; set mqtt.username and mqtt.password instead")
    has_tls = parts.scheme == "mqtts"
    loopback = _loopback(host, port)
    if not loopback:
        if not is_enrolled:
            raise ConfigError(
                f"mqtt.url '{url}' is not on this machine, and this one is in no fleet; enrol it first (docs/trust.md)"
            )
        if password and not has_tls:
            raise ConfigError(f"mqtt.password would travel to '{host}' in the clear; write mqtts:// in mqtt.url")
    if ca_file and not has_tls:
        raise ConfigError("mqtt.ca_file is for TLS; write mqtts:// in mqtt.url or remove it")
    return BrokerAddress(host, port, username, password, has_tls, ca_file, loopback)


def _loopback(host: str, port: int) -> tuple[str, ...]:
    """Its addresses, where all are on this machine; else none. Raises ConfigError for a name without any."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"mqtt.url: the name '{host}' cannot be resolved ({error.strerror}); correct it") from None
    addresses = tuple(str(entry[4][0]) for entry in found)
    return addresses if all(ipaddress.ip_address(address).is_loopback for address in addresses) else ()


class MqttTransport:
    """See `base.Transport`. Reconnects by itself and subscribes again; readers are told of every loss."""

    def __init__(self, address: BrokerAddress, client_id: str, will: LastWill | None = None) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self.returns = Returns()
        self._control = _Connection(self, f"{client_id}-c", will)
        self._bulk = _Connection(self, f"{client_id}-b", None)

    @classmethod
    async def connect(cls, address: BrokerAddress, client_id: str, will: LastWill | None = None) -> "MqttTransport":
        """Connect both connections. Raises PeerLostError when the broker does not answer in time."""
        transport = cls(address, client_id, will)
        try:
            for connection in (transport._control, transport._bulk):
                await connection.start(address)
        except BaseException:
            await transport.close()
            raise
        return transport

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def is_connected(self) -> bool:
        return self._control.is_connected and self._bulk.is_connected

    @property
    def max_payload_bytes(self) -> int:
        return min(MAX_FRAME_BYTES, self._bulk.max_packet_bytes - PACKET_OVERHEAD_BYTES)

    def publish(self, topic: str, payload: bytes, *, bulk: bool = False, retain: bool = False) -> None:
        (self._bulk if bulk else self._control).publish(topic, payload, retain=retain)

    def subscribe(self, topic_filter: str, *, bulk: bool = False) -> Subscription:
        return (self._bulk if bulk else self._control).subscribe(topic_filter)

    def unsubscribe(self, subscription: Subscription) -> None:
        for connection in (self._control, self._bulk):
            connection.unsubscribe(subscription)

    async def close(self) -> None:
        """Disconnect cleanly (no Last Will is sent)."""
        for connection in (self._control, self._bulk):
            await asyncio.to_thread(connection.stop)


class _Connection:
    """One paho client. Its callbacks run in paho's thread and only post to the event loop."""

    def __init__(self, transport: MqttTransport, client_id: str, will: LastWill | None) -> None:
        self._transport = transport
        self._subscriptions: list[Subscription] = []
        self._answer: asyncio.Future[ReasonCode] = transport.loop.create_future()
        self.is_connected = False
        self.max_packet_bytes = ALL_BYTES
        self.receive_maximum = MAX_IN_FLIGHT
        self._is_stopping = False
        self._too_large = Dropping(log, "a payload")
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        client.max_queued_messages_set(MAX_WAITING)
        client.reconnect_delay_set(RECONNECT_S * random.uniform(0.5, 1.5), MAX_RECONNECT_S)  # type: ignore[arg-type]
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_open = _set_no_delay
        if will:
            client.will_set(will.topic, will.payload, qos=1, retain=True)

    async def start(self, address: BrokerAddress) -> None:
        if address.username:
            self._client.username_pw_set(address.username, address.password)
        if address.has_tls:
            self._client.tls_set_context(_tls(address))
        await self._open(address)
        if self.receive_maximum < MAX_IN_FLIGHT:  # can only be set on a closed connection
            await asyncio.to_thread(self.stop)
            self._is_stopping = False
            self._client.max_inflight_messages_set(self.receive_maximum)
            self._answer = self._transport.loop.create_future()
            await self._open(address)

    async def _open(self, address: BrokerAddress) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_FRAME_BYTES + PACKET_OVERHEAD_BYTES
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        where = f"the MQTT broker at {address.host}:{address.port}"
        try:
            await asyncio.to_thread(self._connect, address, properties)
            self._client.loop_start()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reason = await self._answer
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no answer within {CONNECT_TIMEOUT_S:g} s"
            raise PeerLostError(f"{where} cannot be reached ({why}); start it or correct mqtt.url") from None
        if reason.is_failure:
            raise PeerLostError(f"{where} refused the connection ({reason}); check mqtt.username and mqtt.password")

    def _connect(self, address: BrokerAddress, properties: Properties) -> None:
        """To the first of its addresses where somebody listens. Raises OSError."""

        def connect(host: str) -> None:
            self._client.connect(
                host,
                address.port,
                KEEPALIVE_S,
                clean_start=paho.MQTT_CLEAN_START_FIRST_ONLY,  # a connection that comes back resumes its session
                properties=properties,
            )

        *others, last = address.loopback or (address.host,)
        for host in others:
            with contextlib.suppress(ConnectionRefusedError):
                return connect(host)
        return connect(last)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if len(payload) + PACKET_OVERHEAD_BYTES > self.max_packet_bytes:
            raise WireError(f"a payload of {len(payload)} bytes is over the broker's limit; raise max_packet_size")
        if not self.is_connected:
            raise PeerLostError("the connection to the broker is lost; it is tried again by itself")
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        if sent.rc != paho.MQTT_ERR_SUCCESS:
            raise PeerLostError(f"the broker connection does not take messages ({paho.error_string(sent.rc)})")

    def subscribe(self, topic_filter: str) -> Subscription:
        subscription = Subscription(topic_filter)
        self._subscriptions.append(subscription)
        self._client.subscribe(topic_filter, qos=1)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._client.unsubscribe(subscription.topic_filter)

    def stop(self) -> None:
        self._is_stopping = True
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        # paho itself ignores both limits; a broker cuts the connection of a client that exceeds them.
        limits = properties.json() if properties else {}  # type: ignore[no-untyped-call]
        self.receive_maximum = limits.get("ReceiveMaximum", MAX_IN_FLIGHT)
        self.max_packet_bytes = limits.get("MaximumPacketSize", ALL_BYTES)
        self._post(self._connected, reason)

    def _on_disconnect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._post(self._lost, str(reason))

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._post(self._deliver, message.topic, bytes(message.payload))

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._transport.loop.is_closed():
            self._transport.loop.call_soon_threadsafe(function, *arguments)

    def _connected(self, reason: ReasonCode) -> None:
        self.is_connected = not reason.is_failure
        if not self._answer.done():
            self._answer.set_result(reason)
        elif self.is_connected:
            log.info("broker connection is back")
            for subscription in self._subscriptions:  # the broker may have forgotten them
                self._client.subscribe(subscription.topic_filter, qos=1)
            self._transport.returns.note()

    def _lost(self, reason: str) -> None:
        if not self.is_connected:
            return
        self.is_connected = False
        if self._is_stopping:
            return
        log.warning("broker connection lost", extra={"reason": reason})
        if reason == TAKEN_OVER:
            log.error("another process uses this client id, and the broker takes one; give each a device id of its own")
            self._client.reconnect_delay_set(TAKEN_OVER_S, MAX_TAKEN_OVER_S)  # type: ignore[arg-type]
        for subscription in self._subscriptions:
            subscription.put_lost(f"the connection to the broker is lost ({reason})")

    def _deliver(self, topic: str, payload: bytes) -> None:
        if len(payload) > MAX_FRAME_BYTES:
            self._too_large.note(f"{len(payload)} bytes on {topic[:MAX_TOLD]}, where {MAX_FRAME_BYTES} are the most")
            return
        for subscription in self._subscriptions:
            if subscription.takes(topic):
                subscription.put(topic, payload)


class _NamedContext(ssl.SSLContext):
    """Asks the other end for a certificate of `name`, whatever address the connection goes to."""

    name = ""

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        del server_hostname
        return super().wrap_socket(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, self.name, session)


def _tls(address: BrokerAddress) -> ssl.SSLContext:
    """The broker must have a certificate for the name in `mqtt.url`. Raises ConfigError for a bad file."""
    context, ca_file = _NamedContext(ssl.PROTOCOL_TLS_CLIENT), address.ca_file
    context.name, context.minimum_version = address.host, ssl.TLSVersion.TLSv1_2
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"mqtt.ca_file '{ca_file}' cannot be used ({error.strerror or error}); correct it") from None
    return context


def _set_no_delay(_client: paho.Client, _data: object, sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
