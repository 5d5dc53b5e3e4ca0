"""Whether a credential holds: every reason not to, and that nothing else passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.credentials import (
    MAX_REVOKED,
    Credential,
    FleetKey,
    Refusal,
    Revocations,
    Revoked,
    Role,
    newer,
    read_request,
    request,
    verify,
)
from edgeagent.wire.identity import Identity
from edgeagent.wire.signed import MAX_BODY_BYTES, Purpose, Signed, sign

FLEET, OTHER_FLEET = FleetKey(bytes([7] * 32)), FleetKey(bytes([8] * 32))
KITCHEN, THIEF = Identity(bytes(32), bytes([1] * 32)), Identity(bytes([2] * 32), bytes([3] * 32))
SERIAL = "0" * 31 + "1"
CREDENTIAL = Credential(
    fleet=FLEET.id, serial=SERIAL, name="kitchen", role="device", identity=KITCHEN.public, not_before=1000, expires=2000
)
SIGNED = FLEET.credential(CREDENTIAL)


def revocations(number: int, *serials: str, by: FleetKey = FLEET) -> Revocations:
    revoked = tuple(Revoked(serial=serial, expires=2000) for serial in serials)
    return Revocations(fleet=by.id, number=number, issued=1500, revoked=revoked)


def judged(signed: Signed = SIGNED, *, now: int = 1000, role: Role = "device", serials: tuple[str, ...] = ()) -> object:
    return verify(signed, FLEET.public, revocations(1, *serials), now, role)


@pytest.mark.parametrize("now", [1000, 1999])
def test_credential_holds_from_its_first_second_to_its_last(now: int) -> None:
    assert judged(now=now) == CREDENTIAL
    assert verify(SIGNED, FLEET.public, None, now, "device") == CREDENTIAL


def test_each_reason_to_refuse_is_told() -> None:
    forged = Signed(body=SIGNED.body, signature="0" * 128)
    theirs = OTHER_FLEET.credential(CREDENTIAL.model_copy(update={"fleet": OTHER_FLEET.id}))
    assert judged(now=999) is Refusal.NOT_YET_VALID
    assert judged(now=2000) is Refusal.EXPIRED
    assert judged(role="peer") is Refusal.WRONG_ROLE
    assert judged(serials=("f" * 32, SERIAL)) is Refusal.REVOKED
    assert judged(serials=("f" * 32,)) == CREDENTIAL
    assert judged(forged) is Refusal.BAD_SIGNATURE
    assert judged(theirs) is Refusal.WRONG_FLEET


def test_machine_cannot_write_its_own_credential() -> None:
    assert judged(THIEF.sign(Purpose.CREDENTIAL, CREDENTIAL)) is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize("key", list(Credential.model_fields))
def test_changed_credential_is_refused(key: str) -> None:
    changes = {
        "fleet": OTHER_FLEET.id,
        "serial": "2" * 32,
        "name": "garage",
        "role": "peer",
        "identity": THIEF.public,
        "plans": ("prefill",),
        "models": ("m",),
        "not_before": 0,
        "expires": 10**9,
        "version": 2,
    }
    body = CREDENTIAL.model_copy(update={key: changes[key]}).model_dump_json()
    changed = Signed(body=body, signature=SIGNED.signature)
    assert judged(changed) in (Refusal.BAD_SIGNATURE, Refusal.WRONG_FLEET)
    assert judged(changed, role="peer") in (Refusal.BAD_SIGNATURE, Refusal.WRONG_FLEET)


def test_credential_as_large_as_it_may_be_fits_a_frame() -> None:
    largest = CREDENTIAL.model_copy(
        update={
            "name": "n" * 64,
            "plans": tuple("p" * 32 for _ in range(16)),
            "models": tuple("m" * 64 for _ in range(32)),
            "expires": 2**40,
        }
    )
    assert len(FLEET.credential(Credential.model_validate(largest)).body) < MAX_BODY_BYTES


def test_plans_and_models_are_bounds_only_where_they_are_named() -> None:
    bounded = CREDENTIAL.model_copy(update={"plans": ("prefill",), "models": ("small",)})
    assert CREDENTIAL.allows("remote", "any")
    assert bounded.allows("prefill", "small")
    assert not bounded.allows("remote", "small")
    assert not bounded.allows("prefill", "large")
    assert not CREDENTIAL.model_copy(update={"plans": ()}).allows("prefill", "small")


def test_list_of_revocations_goes_forward_only() -> None:
    held = revocations(5, SERIAL)
    assert newer(FLEET.revocations(revocations(6)), FLEET.public, held).number == 6
    assert newer(FLEET.revocations(revocations(5)), FLEET.public, held) == held
    assert newer(FLEET.revocations(revocations(4)), FLEET.public, held) == held
    assert newer(FLEET.revocations(held), FLEET.public, None) == held


def test_list_of_another_fleet_is_refused() -> None:
    theirs = OTHER_FLEET.revocations(revocations(9, by=OTHER_FLEET))
    mislabelled = revocations(9, by=OTHER_FLEET)
    for signed in (theirs, sign(FLEET._key, Purpose.REVOCATIONS, mislabelled)):
        with pytest.raises(ProtocolError):
            newer(signed, FLEET.public, revocations(1))


def test_longest_list_is_read() -> None:
    longest = revocations(2**40, *(f"{number:032x}" for number in range(MAX_REVOKED)))
    assert newer(FLEET.revocations(longest), FLEET.public, None) == longest


def test_request_holds_the_keys_of_whoever_signed_it() -> None:
    assert read_request(request(KITCHEN)) == KITCHEN.public
    with pytest.raises(ProtocolError):  # somebody else's sealing key with the own signature
        read_request(Signed(body=request(KITCHEN).body, signature=request(THIEF).signature))


@given(st.text(max_size=300))
def test_any_text_is_neither_credential_nor_request_nor_list(body: str) -> None:
    signed = Signed(body=body, signature="00" * 64)
    assert judged(signed) is Refusal.BAD_SIGNATURE
    with pytest.raises(ProtocolError):
        read_request(signed)
    with pytest.raises(ProtocolError):
        newer(signed, FLEET.public, None)
