"""The broker that other tests stand on: real messages pass, it dies at once, and comes back where it was."""

from typing import TYPE_CHECKING

import pytest
from paho.mqtt import publish, subscribe

if TYPE_CHECKING:
    from tests.conftest import Mosquitto

TOPIC = "edgeagent/test"


def test_broker_delivers_again_after_it_was_killed(mosquitto: "Mosquitto") -> None:
    assert round_trip(mosquitto.port, b"before") == b"before"
    mosquitto.kill()
    with pytest.raises(ConnectionRefusedError):
        round_trip(mosquitto.port, b"meanwhile")
    mosquitto.start()
    assert round_trip(mosquitto.port, b"after") == b"after"


def round_trip(port: int, payload: bytes) -> bytes:
    """What a subscriber gets of one retained message."""
    publish.single(TOPIC, payload, qos=1, retain=True, hostname="127.0.0.1", port=port)
    message = subscribe.simple(TOPIC, qos=1, hostname="127.0.0.1", port=port)  # type: ignore[no-untyped-call]
    return bytes(message.payload)
