"""Sessions open between valid members of one fleet, and with nobody else."""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.credentials import Revocations, Revoked
from edgeagent.wire.frames import Kind, Lane
from edgeagent.wire.identity import Identity
from edgeagent.wire.opening import Answerer, Opening, Party, _answer_info, _open, _opening_info, _seal, derive_keys
from edgeagent.wire.sealing import ANSWER_KIND, Aead, Header
from edgeagent.wire.signed import NOT_AUTHENTIC, Purpose, pack
from tests.wire.parties import (
    DEVICE,
    FLEET,
    GARAGE,
    GARAGE_CREDENTIAL,
    KITCHEN,
    NOW,
    OTHER_FLEET,
    PEER,
    SESSION,
    THIEF,
    answerer,
    credential,
    drawn,
    opened,
    opening,
    party,
)

VECTORS = json.loads((Path(__file__).parent / "opening_vectors.json").read_text())


def refused(call: Callable[[], object]) -> str:
    """The reason that is kept for the own log; the message is always the same."""
    with pytest.raises(ProtocolError) as caught:
        call()
    assert str(caught.value) == NOT_AUTHENTIC
    return caught.value.reason


@pytest.mark.parametrize("aead", list(Aead))
def test_both_ends_read_each_other_after_opening(aead: Aead) -> None:
    ends = opened(aead)
    assert ends.peer.open(ends.device.seal(Kind.MESSAGE, b"hello")).payload == b"hello"
    assert (ends.peer.has_received, ends.device.has_received) == (True, False)
    assert ends.device.open(ends.peer.seal(Kind.FRAGMENT, b"data", Lane.BLOCKS)).payload == b"data"


def test_each_end_learns_who_the_other_is() -> None:
    started = opening()
    answered = answerer().answer(started.frame, "kitchen", NOW)
    assert answered.device == credential(KITCHEN, "kitchen", "device")
    assert not answered.channel.has_received
    assert started.finish(answered.frame, NOW)[1] == GARAGE_CREDENTIAL


def test_two_sessions_have_different_keys() -> None:
    first, second = opened(), opened()
    refused(lambda: second.peer.open(first.device.seal(Kind.MESSAGE, b"hello")))


def test_opening_that_was_changed_in_any_byte_is_refused() -> None:
    frame = opening().frame
    for bit in one_of_each_byte(frame):
        refused(lambda: answerer().answer(flipped(frame, bit), "kitchen", NOW))  # noqa: B023


def test_answer_that_was_changed_in_any_byte_is_refused() -> None:
    frame = answerer().answer(opening().frame, "kitchen", NOW).frame
    for bit in one_of_each_byte(frame):
        started = opening()
        refused(lambda: started.finish(flipped(frame, bit), NOW))  # noqa: B023


def test_opening_and_answer_cut_or_lengthened_are_refused() -> None:
    started = opening()
    answer = answerer().answer(started.frame, "kitchen", NOW).frame
    for frame, take in (
        (started.frame, lambda f: answerer().answer(f, "kitchen", NOW)),
        (answer, lambda f: opening().finish(f, NOW)),
    ):
        for length in range(len(frame)):
            refused(lambda: take(frame[:length]))  # noqa: B023
        refused(lambda: take(frame + b"\0"))  # noqa: B023


def test_opening_that_comes_again_is_refused() -> None:
    peer, frame = answerer(), opening().frame
    peer.answer(frame, "kitchen", NOW)
    assert refused(lambda: peer.answer(frame, "kitchen", NOW)) == "an opening came again"


def test_forgotten_opening_that_comes_again_opens_nothing_for_whoever_replays_it() -> None:
    started = opening()
    first = answerer().answer(started.frame, "kitchen", NOW)
    device, _ = started.finish(first.frame, NOW)
    again = Answerer(PEER, drawn(9)).answer(started.frame, "kitchen", NOW)
    refused(lambda: again.channel.open(device.seal(Kind.MESSAGE, b"recorded")))


def test_memory_of_openings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeagent.wire.opening.MAX_SEEN", 2)
    peer = answerer()
    for number in range(5):
        peer.answer(opening(session=bytes([number] * 16)).frame, "kitchen", NOW)
    assert len(peer._seen) == 2


def test_answer_to_another_opening_is_refused_and_the_right_one_still_counts() -> None:
    started, other = opening(), Opening(DEVICE, GARAGE_CREDENTIAL, SESSION, Aead.AES_256_GCM, drawn(4))
    good = answerer().answer(started.frame, "kitchen", NOW).frame
    refused(lambda: started.finish(answerer().answer(other.frame, "kitchen", NOW).frame, NOW))
    assert started.finish(good, NOW)


def test_answer_is_taken_once() -> None:
    started = opening()
    answer = answerer().answer(started.frame, "kitchen", NOW).frame
    started.finish(answer, NOW)
    refused(lambda: started.finish(answer, NOW))


def test_messages_reflected_to_their_sender_are_refused() -> None:
    started = opening()
    answer = answerer().answer(started.frame, "kitchen", NOW).frame
    refused(lambda: answerer().answer(answer, "garage", NOW))
    refused(lambda: started.finish(started.frame, NOW))


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (party(KITCHEN, "kitchen", "peer"), "wrong role"),
        (party(KITCHEN, "kitchen", "device", OTHER_FLEET), "wrong fleet"),
        (replace(party(KITCHEN, "kitchen", "device"), identity=THIEF), ""),  # a credential read off the broker
        (party(KITCHEN, "pantry", "device"), "the opening is for another peer, or came on the topic of another device"),
    ],
)
def test_opening_by_a_stranger_or_in_another_role_or_name_is_refused(theirs: Party, reason: str) -> None:
    assert refused(lambda: answerer().answer(opening(theirs).frame, "kitchen", NOW)) == reason


@pytest.mark.parametrize(("moment", "reason"), [(NOW - 101, "not yet valid"), (NOW + 100, "expired")])
def test_credential_counts_in_its_time_only(moment: int, reason: str) -> None:
    assert refused(lambda: answerer().answer(opening().frame, "kitchen", moment)) == reason
    answer = answerer().answer(opening().frame, "kitchen", NOW).frame
    assert refused(lambda: opening().finish(answer, moment)) == reason


@pytest.mark.parametrize("whose", [KITCHEN, GARAGE])
def test_revoked_end_gets_nothing(whose: Identity) -> None:
    revoked = Revoked(serial=whose.public.signing_key[:32], expires=NOW + 100)
    listed = Revocations(fleet=FLEET.id, number=1, issued=NOW, revoked=(revoked,))
    if whose is KITCHEN:
        told = answerer(replace(PEER, revocations=listed))
        assert refused(lambda: told.answer(opening().frame, "kitchen", NOW)) == "revoked"
    else:
        started = opening(replace(DEVICE, revocations=listed))
        answer = answerer().answer(started.frame, "kitchen", NOW).frame
        assert refused(lambda: started.finish(answer, NOW)) == "revoked"


@pytest.mark.parametrize(
    "theirs",
    [
        party(THIEF, "garage", "peer"),  # a valid peer of the fleet that was given another's name
        party(GARAGE, "attic", "peer"),
        party(GARAGE, "garage", "device"),
        party(GARAGE, "garage", "peer", OTHER_FLEET),
        replace(PEER, identity=THIEF),
    ],
)
def test_answer_by_anyone_but_the_peer_that_was_asked_is_refused(theirs: Party) -> None:
    started = opening()
    digest, ephemeral = hashlib.sha256(started.frame).digest(), started.frame[28 + 27 : 28 + 59]
    sealed = _seal(ephemeral, bytes(32), _answer_info(digest, theirs.identity.public.id))
    forged = Header(ANSWER_KIND, SESSION).pack() + sealed + pack(theirs.credential)
    refused(lambda: started.finish(forged + theirs.identity.sign_bytes(Purpose.ANSWER, digest + forged), NOW))


def test_peer_that_is_not_asked_cannot_open_what_was_sealed_to_another() -> None:
    attic = answerer(party(THIEF, "attic", "peer"))
    assert refused(lambda: attic.answer(opening().frame, "kitchen", NOW)).startswith("the opening is for another peer")


def test_member_cannot_sign_another_members_secret_as_its_own() -> None:
    thief = party(THIEF, "hall", "device")
    stolen = opening().frame[: 28 + 139] + pack(thief.credential)
    frame = stolen + THIEF.sign_bytes(Purpose.OPENING, stolen)
    refused(lambda: answerer().answer(frame, "hall", NOW))


@pytest.mark.parametrize("key", [bytes(32), bytes([1]) + bytes(31)])
def test_ephemeral_key_of_low_order_is_refused(key: bytes) -> None:
    frame = opening().frame
    unsigned = frame[: 28 + 27] + key + frame[28 + 59 : -64]
    refused(lambda: answerer().answer(unsigned + KITCHEN.sign_bytes(Purpose.OPENING, unsigned), "kitchen", NOW))


def test_renewed_credential_of_the_peer_is_taken() -> None:
    renewed = GARAGE_CREDENTIAL.model_copy(update={"serial": "a" * 32, "expires": NOW + 1000})
    started = opening()
    answered = answerer(replace(PEER, credential=FLEET.credential(renewed))).answer(started.frame, "kitchen", NOW)
    assert started.finish(answered.frame, NOW)[1] == renewed


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_no_opening_and_no_answer(data: bytes, with_header: bool) -> None:
    started = opening()
    frame = started.frame[:28] + data if with_header else data
    refused(lambda: answerer().answer(frame, "kitchen", NOW))
    refused(lambda: started.finish(frame, NOW))


def test_keys_are_those_of_hkdf() -> None:
    secrets, first, second = bytes(range(64)), b"opening", b"answer"
    salt = hashlib.sha256(hashlib.sha256(first).digest() + hashlib.sha256(second).digest()).digest()
    prk, okm, block = hmac.digest(salt, secrets, "sha256"), b"", b""
    for number in range(1, 4):  # RFC 5869, 2.3
        block = hmac.digest(prk, block + b"edgeagent/1\0session keys\0" + bytes([number]), "sha256")
        okm += block
    up, down = derive_keys(secrets, first, second)
    assert up.key + up.mask + down.key + down.mask == okm[:88]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["aead"])
def test_recorded_session_is_read_as_it_was(vector: dict[str, str]) -> None:
    recorded = {key: bytes.fromhex(value) for key, value in vector.items() if key != "aead"}
    aead = Aead[vector["aead"]]
    started = opening(aead=aead)
    assert started.frame[28 + 139 : -64] == recorded["opening"][28 + 139 : -64]
    started.frame = recorded["opening"]
    info = _opening_info(SESSION, KITCHEN.public.id, GARAGE.public.id)
    assert _open(GARAGE.sealing, recorded["opening"][28 + 59 : 28 + 139], info) == started._secret
    device, _ = started.finish(recorded["answer"], NOW)
    for number, lane in enumerate((Lane.MESSAGES, Lane.MESSAGES, Lane.BLOCKS)):
        assert device.seal(Kind.MESSAGE, b"up %d" % number, lane) == recorded[f"up {number}"]
        assert device.open(recorded[f"down {number}"]).payload == b"down %d" % number


@pytest.mark.long
def test_opening_and_answer_changed_in_any_bit_are_refused() -> None:
    frame = opening().frame
    answer = answerer().answer(frame, "kitchen", NOW).frame
    for bit in range(8 * len(frame)):
        refused(lambda: answerer().answer(flipped(frame, bit), "kitchen", NOW))  # noqa: B023
    for bit in range(8 * len(answer)):
        started = opening()
        refused(lambda: started.finish(flipped(answer, bit), NOW))  # noqa: B023


def one_of_each_byte(data: bytes) -> Iterator[int]:
    return (8 * place + place % 8 for place in range(len(data)))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
