"""Offers and claims count when whom they name has signed them, and plain ones when they are what they say."""

from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError, WireError
from edgeagent.wire.messages import OfferedModel, PeerStatus, decode_status
from edgeagent.wire.notes import decode_plain, encode_plain
from edgeagent.wire.offers import MAX_RUNS, JobClaim, JobOffer
from edgeagent.wire.opening import Party
from edgeagent.wire.signed_notes import read_note, sign_note
from tests.wire.parties import DEVICE, GARAGE, KITCHEN, NOW, OTHER_FLEET, PEER, THIEF, party

Note = TypeVar("Note", JobOffer, JobClaim)
NUMBER = "0f" * 16
OFFER = JobOffer(
    number=NUMBER, device="kitchen", job="remote", model="m", variant_sha256="0" * 64, prompt_tokens=900,
    answer_tokens=64, deadline_s=30,
)  # fmt: skip
CLAIM = JobClaim(number=NUMBER, peer="garage", finish_s=2.5)


def refused(kind: type[Note], data: bytes, reader: Party, now: int = NOW) -> None:
    with pytest.raises(ProtocolError):
        read_note(kind, data, reader, now)


def test_what_was_signed_is_read_with_whose_it_is() -> None:
    offer, device = read_note(JobOffer, sign_note(DEVICE, OFFER), PEER, NOW)
    claim, peer = read_note(JobClaim, sign_note(PEER, CLAIM), DEVICE, NOW)
    assert (offer, device.name) == (OFFER, "kitchen")
    assert (claim, peer.name) == (CLAIM, "garage")


@pytest.mark.parametrize(
    "theirs",
    [
        party(KITCHEN, "kitchen", "device", OTHER_FLEET),
        party(KITCHEN, "kitchen", "peer"),
        party(KITCHEN, "cellar", "device"),
        Party(THIEF, DEVICE.credential, DEVICE.fleet_key, None),
    ],
)
def test_offer_by_anyone_but_the_device_it_names_is_refused(theirs: Party) -> None:
    refused(JobOffer, sign_note(theirs, OFFER), PEER)


@pytest.mark.parametrize("theirs", [party(GARAGE, "garage", "device"), party(GARAGE, "attic", "peer")])
def test_claim_by_anyone_but_the_peer_it_names_is_refused(theirs: Party) -> None:
    refused(JobClaim, sign_note(theirs, CLAIM), DEVICE)


def test_expired_device_offers_nothing() -> None:
    refused(JobOffer, sign_note(DEVICE, OFFER), PEER, NOW + 100)


def test_offer_passes_for_no_claim_and_under_no_other_number() -> None:
    data = sign_note(DEVICE, OFFER)
    refused(JobClaim, data, DEVICE)
    refused(JobOffer, data[:4] + bytes(16) + data[20:], PEER)


def test_offer_changed_or_cut_anywhere_is_refused() -> None:
    data = sign_note(DEVICE, OFFER)
    for place in range(len(data)):
        refused(JobOffer, data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :], PEER)
        refused(JobOffer, data[:place], PEER)


def test_plain_ones_are_read_as_what_they_are_and_nothing_else() -> None:
    assert decode_plain(JobOffer, encode_plain(OFFER)) == OFFER
    assert decode_plain(JobClaim, encode_plain(CLAIM)) == CLAIM
    with pytest.raises(WireError):
        decode_plain(JobClaim, encode_plain(OFFER))
    with pytest.raises(WireError):
        decode_plain(JobOffer, encode_plain(CLAIM))


@given(st.binary(max_size=200))
def test_any_bytes_are_neither(data: bytes) -> None:
    refused(JobOffer, sign_note(DEVICE, OFFER)[:28] + data, PEER)
    with pytest.raises(WireError):
        decode_plain(JobOffer, data)


def test_model_that_no_topic_can_name_is_no_part_of_a_status() -> None:
    model = OfferedModel(model="m", variant="v", exact_key="", prefill_tok_s=1, decode_tok_s=1, context_tokens=1,
                         kv_bytes_per_token=0)  # fmt: skip
    status = PeerStatus(id="garage", state="online", models=(model,)).model_dump_json()
    assert decode_status(status.encode()).models == (model,)
    with pytest.raises(WireError):
        decode_status(status.replace('"m"', '"a/#"').encode())


def test_offer_that_names_as_many_peers_as_it_may_fits_a_note() -> None:
    runs = tuple(f"{number:016x}" for number in range(MAX_RUNS))
    full = OFFER.model_copy(update={"runs": runs})
    assert read_note(JobOffer, sign_note(DEVICE, full), PEER, NOW)[0] == full
    with pytest.raises(ProtocolError):
        read_note(JobOffer, sign_note(DEVICE, full.model_copy(update={"runs": (*runs, "f" * 16)})), PEER, NOW)
