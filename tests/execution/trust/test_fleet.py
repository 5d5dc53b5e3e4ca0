"""The operator's register and a machine's membership, in files."""

import secrets
from pathlib import Path

import pytest

from edgeagent.core.errors import NotFoundError, TrustError
from edgeagent.execution.trust.fleet import DAY_S, KEEP_EXPIRED_S, SKEW_S, Fleet, enroll, revoke
from edgeagent.execution.trust.identity import load_or_make_identity
from edgeagent.execution.trust.membership import (
    IDENTITY_FILE,
    MEMBERSHIP_FILE,
    Membership,
    join,
    load_membership,
    take_revocations,
)
from edgeagent.wire.credentials import Credential, Refusal
from edgeagent.wire.frames import Kind
from edgeagent.wire.identity import Identity
from edgeagent.wire.opening import Answerer, Opening
from edgeagent.wire.sealing import Aead

NOW = 1_800_000_000


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    Fleet.init(tmp_path / "fleet", NOW)
    return tmp_path / "fleet"


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    return tmp_path / "kitchen"


def enrolled(kept: Path, machine: Path, name: str = "kitchen", now: int = NOW, days: int = 1) -> Membership:
    identity = load_or_make_identity(machine / IDENTITY_FILE)
    bundle, _ = enroll(kept, name, "device", now, days, asked_by=identity.public)
    assert bundle.identity is None
    return join(machine, bundle, now)[0]


def test_member_judges_another_member_by_the_same_fleet(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    ours = enrolled(kept, kitchen)
    theirs = enrolled(kept, tmp_path / "hall", "hall")
    found = ours.verify(theirs.signed["device"], NOW, "device")
    assert isinstance(found, Credential)
    assert found.name == "hall"
    assert load_membership(kitchen) is not None


def test_revoked_member_is_refused_by_whoever_has_the_list(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    ours, theirs = enrolled(kept, kitchen), enrolled(kept, tmp_path / "hall", "hall")
    signed, revoked = revoke(kept, "hall", NOW)
    assert [credential.serial for credential in revoked] == [theirs.credentials["device"].serial]
    assert not isinstance(ours.verify(theirs.signed["device"], NOW, "device"), Refusal)
    take_revocations(kitchen, signed)
    told = load_membership(kitchen)
    assert told is not None
    assert told.verify(theirs.signed["device"], NOW, "device") is Refusal.REVOKED
    assert isinstance(told.own(NOW, "device"), Credential)
    assert take_revocations(tmp_path / "hall", signed).own(NOW, "device") is Refusal.REVOKED


def test_older_list_does_not_take_back_a_newer_one(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    enrolled(kept, kitchen)
    enrolled(kept, tmp_path / "hall", "hall")
    older, _ = revoke(kept, "hall", NOW)
    enrolled(kept, tmp_path / "hall", "hall")
    newest, _ = revoke(kept, "hall", NOW)
    assert take_revocations(kitchen, newest).revocations == take_revocations(kitchen, older).revocations


def test_bundle_with_an_older_list_does_not_take_back_a_newer_one(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    mine = enrolled(kept, kitchen).identity.public
    older, _ = enroll(kept, "kitchen", "device", NOW, 2, asked_by=mine)
    enrolled(kept, tmp_path / "hall", "hall")
    newer, _ = revoke(kept, "hall", NOW)
    number = take_revocations(kitchen, newer).revocations.number
    assert join(kitchen, older, NOW)[0].revocations.number == number
    told = load_membership(kitchen)
    assert told is not None
    assert told.revocations.number == number


def test_fleet_restored_from_an_old_copy_still_counts_upwards(kept: Path, kitchen: Path) -> None:
    copy = (kept / "fleet.json").read_bytes()
    enrolled(kept, kitchen)
    for number in range(3):
        revoke(kept, "kitchen", NOW + number)
        enrolled(kept, kitchen)
    before = Fleet.open(kept).file.number
    (kept / "fleet.json").write_bytes(copy)
    enrolled(kept, kitchen)
    revoke(kept, "kitchen", NOW + 60)
    assert Fleet.open(kept).file.number > before


def test_keys_made_by_the_operator_travel_in_the_bundle(kept: Path, kitchen: Path) -> None:
    bundle, _ = enroll(kept, "kitchen", "device", NOW, 1)
    assert bundle.identity is not None
    assert bundle.identity.signing_seed not in (kept / "fleet.json").read_text()
    load_or_make_identity(kitchen / IDENTITY_FILE)  # never enrolled, so it gives way
    membership, _ = join(kitchen, bundle, NOW)
    assert membership.identity.public.id == bundle.identity.id
    assert load_or_make_identity(kitchen / IDENTITY_FILE).public == membership.identity.public


def test_bundle_for_another_machine_is_refused(kept: Path, kitchen: Path) -> None:
    other = Identity.make(secrets.token_bytes)
    bundle, _ = enroll(kept, "kitchen", "device", NOW, 1, asked_by=other.public)
    with pytest.raises(TrustError, match=f"bundle is for {other.public.id}"):
        join(kitchen, bundle, NOW)
    assert load_membership(kitchen) is None


def test_enrolled_machine_leaves_fleet_name_and_keys_only_when_told(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    mine = enrolled(kept, kitchen).identity.public
    Fleet.init(tmp_path / "other", NOW)
    elsewhere, _ = enroll(tmp_path / "other", "kitchen", "device", NOW, 1, asked_by=mine)
    other_keys, _ = enroll(kept, "pantry", "peer", NOW, 1)
    other_name, _ = enroll(kept, "pantry2", "peer", NOW, 1, asked_by=mine)
    before = (kitchen / MEMBERSHIP_FILE).read_bytes()
    for bundle in (elsewhere, other_keys, other_name):
        with pytest.raises(TrustError, match="--replace"):
            join(kitchen, bundle, NOW)
    assert (kitchen / MEMBERSHIP_FILE).read_bytes() == before
    assert join(kitchen, elsewhere, NOW, replace=True)[0].fleet_key == Fleet.open(tmp_path / "other").key.public


def test_machine_can_be_device_and_peer_with_the_same_keys(kept: Path, kitchen: Path) -> None:
    mine = enrolled(kept, kitchen).identity.public
    bundle, _ = enroll(kept, "kitchen", "peer", NOW, 1, asked_by=mine)
    membership, _ = join(kitchen, bundle, NOW)
    assert set(membership.credentials) == {"device", "peer"}


@pytest.mark.parametrize(("moment", "reason"), [(NOW - SKEW_S - 1, None), (NOW + DAY_S, "expired")])
def test_bundle_is_judged_by_a_clock_that_is_never_before_the_fleet(
    kept: Path, kitchen: Path, moment: int, reason: str | None
) -> None:
    identity = load_or_make_identity(kitchen / IDENTITY_FILE)
    bundle, _ = enroll(kept, "kitchen", "device", NOW, 1, asked_by=identity.public)
    if reason:
        with pytest.raises(TrustError, match=reason):
            join(kitchen, bundle, moment)
        return
    membership, _ = join(kitchen, bundle, moment)
    assert membership.now(0) == NOW
    assert isinstance(membership.own(0, "device"), Credential)


def test_name_belongs_to_its_keys_until_it_is_revoked(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    enrolled(kept, kitchen)
    enrolled(kept, kitchen)  # renewed
    with pytest.raises(TrustError, match="enrolled with other keys"):
        enrolled(kept, tmp_path / "thief")
    assert len(revoke(kept, "kitchen", NOW)[1]) == 2
    enrolled(kept, tmp_path / "new")
    with pytest.raises(NotFoundError):
        revoke(kept, "garage", NOW)


def test_what_expired_leaves_list_and_register_after_a_while(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    enrolled(kept, kitchen)
    revoke(kept, "kitchen", NOW)
    enrolled(kept, tmp_path / "hall", "hall", NOW + DAY_S + KEEP_EXPIRED_S)
    assert [issued.credential.name for issued in Fleet.open(kept).file.issued] == ["hall"]
    signed, _ = revoke(kept, "hall", NOW + DAY_S + KEEP_EXPIRED_S)
    assert take_revocations(kitchen, signed).revocations.revoked[0].expires > NOW + DAY_S + KEEP_EXPIRED_S


def test_second_fleet_in_a_folder_is_refused(kept: Path) -> None:
    with pytest.raises(TrustError, match="there is a fleet"):
        Fleet.init(kept, NOW)


def test_membership_that_does_not_fit_its_signatures_is_refused(kept: Path, kitchen: Path) -> None:
    enrolled(kept, kitchen)
    path = kitchen / MEMBERSHIP_FILE
    path.write_text(path.read_text().replace("kitchen", "kitschen"))
    with pytest.raises(TrustError, match="does not fit its own signatures"):
        load_membership(kitchen)


def test_membership_beside_other_keys_is_refused(kept: Path, kitchen: Path) -> None:
    enrolled(kept, kitchen)
    (kitchen / IDENTITY_FILE).unlink()
    load_or_make_identity(kitchen / IDENTITY_FILE)
    with pytest.raises(TrustError, match="does not fit its own signatures"):
        load_membership(kitchen)


def test_members_open_a_session_with_what_is_in_their_files(kept: Path, kitchen: Path, tmp_path: Path) -> None:
    enrolled(kept, kitchen)
    bundle, peer = enroll(kept, "garage", "peer", NOW, 1)
    join(tmp_path / "garage", bundle, NOW)
    device, garage = load_membership(kitchen), load_membership(tmp_path / "garage")
    assert device is not None
    assert garage is not None
    opening = Opening(device.party("device"), peer, bytes(16), Aead.AES_256_GCM, secrets.token_bytes)
    answered = Answerer(garage.party("peer"), secrets.token_bytes).answer(opening.frame, "kitchen", garage.now(NOW))
    channel, _ = opening.finish(answered.frame, device.now(NOW))
    assert answered.channel.open(channel.seal(Kind.MESSAGE, b"hello")).payload == b"hello"
    with pytest.raises(TrustError, match="not enrolled as a peer"):
        device.party("peer")
