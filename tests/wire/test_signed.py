"""Signatures count for one purpose, one text and one key; nothing else is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.identity import Identity, PublicIdentity
from edgeagent.wire.signed import MAX_BODY_BYTES, Document, Purpose, Signed, pack, parse, read, unpack

ALICE, BOB = Identity(bytes(32), bytes([1] * 32)), Identity(bytes([2] * 32), bytes([3] * 32))


class Note(Document):
    text: str


NOTE = Note(text="Grüße")
SIGNED = ALICE.sign(Purpose.REQUEST, NOTE)


def believed(signed: Signed, purpose: Purpose = Purpose.REQUEST, key: bytes = ALICE.public.verifying) -> Note:
    return read(Note, signed, purpose, key)


def test_signed_document_is_read_back() -> None:
    assert believed(SIGNED) == NOTE
    assert unpack(pack(SIGNED) + b"rest") == (SIGNED, b"rest")


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.REQUEST])
def test_signature_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(ProtocolError):
        believed(SIGNED, purpose)


def test_signature_by_another_key_is_refused() -> None:
    with pytest.raises(ProtocolError):
        believed(SIGNED, key=BOB.public.verifying)
    with pytest.raises(ProtocolError):
        believed(SIGNED, key=bytes([255] * 32))  # no point of the curve


def test_every_flipped_bit_of_a_packed_document_is_refused() -> None:
    packed = pack(SIGNED)
    for bit in range(8 * len(packed)):
        broken = bytearray(packed)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            believed(unpack(bytes(broken))[0])


def test_packed_document_cut_anywhere_is_refused() -> None:
    packed = pack(SIGNED)
    for length in range(len(packed)):
        with pytest.raises(ProtocolError):
            unpack(packed[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_no_document(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        believed(unpack(data)[0])


@pytest.mark.parametrize(
    "body", ['{"version":2,"text":"a"}', '{"version":1,"text":"a","more":1}', '{"version":1,"text":1}', "[]", "", "{"]
)
def test_other_version_key_or_type_is_refused_though_signed(body: str) -> None:
    with pytest.raises(ProtocolError):
        parse(Note, body.encode())


def test_text_over_the_cap_is_refused_though_signed() -> None:
    signed = ALICE.sign(Purpose.REQUEST, Note(text="x" * MAX_BODY_BYTES))
    with pytest.raises(ProtocolError):
        believed(signed)


def test_fingerprint_commits_to_both_keys() -> None:
    mixed = PublicIdentity(signing_key=ALICE.public.signing_key, sealing_key=BOB.public.sealing_key)
    assert len({ALICE.public.id, BOB.public.id, mixed.id}) == 3
    assert ALICE.public.id == "cbfivooitm4wxr4r3cq3w5ggkm"
