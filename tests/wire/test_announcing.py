"""A peer's status counts when a valid peer of that name signed it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.announcing import announce, read_announcement
from edgeagent.wire.opening import Party
from tests.wire.parties import DEVICE, GARAGE, GARAGE_CREDENTIAL, KITCHEN, NOW, OTHER_FLEET, PEER, THIEF, party

STATUS = b'{"id":"garage","state":"online"}'


def refused(data: bytes, name: str = "garage", now: int = NOW) -> None:
    with pytest.raises(ProtocolError):
        read_announcement(data, DEVICE, name, now)


def test_announcement_tells_the_keys_to_open_a_session_with() -> None:
    found = read_announcement(announce(PEER, STATUS, 7), DEVICE, "garage", NOW)
    assert (found.peer, found.status, found.number) == (GARAGE_CREDENTIAL, STATUS, 7)


@pytest.mark.parametrize(
    "theirs",
    [
        party(GARAGE, "garage", "peer", OTHER_FLEET),
        party(GARAGE, "garage", "device"),
        party(GARAGE, "attic", "peer"),
        Party(THIEF, PEER.credential, PEER.fleet_key, None),  # with a credential read off the broker
        Party(KITCHEN, DEVICE.credential, DEVICE.fleet_key, None),
    ],
)
def test_announcement_by_anyone_but_a_valid_peer_of_that_name_is_refused(theirs: Party) -> None:
    refused(announce(theirs, STATUS, 7))


def test_expired_peer_is_not_announced() -> None:
    refused(announce(PEER, STATUS, 7), now=NOW + 100)


def test_announcement_under_another_name_is_refused() -> None:
    refused(announce(PEER, STATUS, 7), name="attic")


def test_announcement_with_another_credential_of_the_same_peer_is_refused() -> None:
    renewed = party(GARAGE, "garage", "peer")
    other = GARAGE_CREDENTIAL.model_copy(update={"serial": "a" * 32})
    data, ours = announce(PEER, STATUS, 7), renewed.credential.body.encode()
    refused(data.replace(ours, other.model_dump_json().encode()))


def test_announcement_changed_or_cut_anywhere_is_refused() -> None:
    data = announce(PEER, STATUS, 7)
    for place in range(len(data)):
        refused(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        refused(data[:place])


@given(st.binary(max_size=300))
def test_any_bytes_are_no_announcement(data: bytes) -> None:
    refused(data)
    refused(announce(PEER, STATUS, 7)[:28] + data)
