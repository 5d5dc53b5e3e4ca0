"""A code pairs one guest with one host, and nobody who does not know it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError, RequestError, TrustError
from edgeagent.wire.identity import PublicIdentity
from edgeagent.wire.pairing import CODE_BYTES, VALID_S, Asked, Guest, Host, PairingCode
from tests.wire.parties import KITCHEN, THIEF, drawn

CODE = PairingCode(bytes(range(16)))


def guest(code: PairingCode = CODE, seed: int = 1) -> Guest:
    return Guest(code, KITCHEN, "kitchen", drawn(seed))


def bundle_of(asked: Asked, identity: PublicIdentity) -> bytes:
    return f"{asked.name} {identity.id}".encode()


def never(asked: Asked, identity: PublicIdentity) -> bytes:
    raise AssertionError("nobody was to be enrolled")


def test_guest_and_host_that_share_a_code_exchange_keys_and_bundle() -> None:
    asking = guest()
    answer = Host(CODE, 0).answer(asking.frame, VALID_S - 1, bundle_of)
    assert asking.finish(answer) == f"kitchen {KITCHEN.public.id}".encode()


def test_neither_frame_shows_names_or_keys() -> None:
    asking = guest()
    frames = asking.frame + Host(CODE, 0).answer(asking.frame, 0, bundle_of)
    for secret in (b"kitchen", KITCHEN.public.signing_key.encode(), KITCHEN.public.id.encode(), bytes(range(16))):
        assert secret not in frames


@given(st.binary(min_size=CODE_BYTES, max_size=CODE_BYTES))
def test_code_is_read_as_it_is_shown(secret: bytes) -> None:
    shown = PairingCode(secret).text
    assert len(shown) == 34
    assert PairingCode.parse(shown).topic == PairingCode(secret).topic
    untidy = shown.upper().replace("-", " ").replace("0", "O").replace("1", "l")
    assert PairingCode.parse(untidy).topic == PairingCode(secret).topic


def test_code_is_this_one() -> None:
    assert CODE.text == "000g-40r4-0m30-e209-185g-r38e-1x68"
    assert repr(CODE) == f"PairingCode({CODE.topic.hex()})"


def test_one_mistyped_character_is_noticed() -> None:
    shown = CODE.text
    for place, character in enumerate(shown):
        if character != "-":
            other = "x" if character != "x" else "y"
            with pytest.raises(RequestError, match="mistyped"):
                PairingCode.parse(shown[:place] + other + shown[place + 1 :])


@pytest.mark.parametrize("text", ["", "abc", CODE.text[:-1], CODE.text + "0", "u" * 28, "ä" * 28, "٣" * 28])
def test_text_that_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="28 letters and digits"):
        PairingCode.parse(text)


def test_other_code_opens_nothing() -> None:
    other = PairingCode(bytes(16))
    asking = guest(other)
    with pytest.raises(ProtocolError):
        Host(CODE, 0).answer(asking.frame, 0, never)
    on_our_topic = asking.frame[:4] + CODE.topic + asking.frame[20:]
    with pytest.raises(ProtocolError):
        Host(CODE, 0).answer(on_our_topic, 0, never)


def test_code_is_good_for_one_guest_who_may_ask_again() -> None:
    host, first, second = Host(CODE, 0), guest(), guest(seed=2)
    answer = host.answer(first.frame, 0, bundle_of)
    assert host.answer(first.frame, 1, never) == answer
    with pytest.raises(ProtocolError) as caught:
        host.answer(second.frame, 1, never)
    assert caught.value.reason == "the code was used"


def test_code_that_expired_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Host(CODE, 100).answer(guest().frame, 100 + VALID_S, never)


def test_failed_enrolment_does_not_spend_the_code() -> None:
    def full(asked: Asked, identity: PublicIdentity) -> bytes:
        raise TrustError("the name is taken; choose another")

    host = Host(CODE, 0)
    with pytest.raises(TrustError):
        host.answer(guest().frame, 0, full)
    assert host.answer(guest(seed=2).frame, 0, bundle_of)


def test_changed_cut_or_reflected_frames_are_refused() -> None:
    asking = guest()
    answer = Host(CODE, 0).answer(asking.frame, 0, bundle_of)
    for frame, take in (
        (asking.frame, lambda data: Host(CODE, 0).answer(data, 0, never)),
        (answer, asking.finish),
    ):
        for place in range(len(frame)):
            changed = frame[:place] + bytes([frame[place] ^ 1 << place % 8]) + frame[place + 1 :]
            for data in (changed, frame[:place]):
                with pytest.raises(ProtocolError):
                    take(data)
    with pytest.raises(ProtocolError):
        asking.finish(asking.frame)
    with pytest.raises(ProtocolError):
        Host(CODE, 0).answer(answer, 0, never)


def test_answer_to_another_request_of_the_same_code_is_refused() -> None:
    first, second = guest(), guest(seed=2)
    answer = Host(CODE, 0).answer(first.frame, 0, bundle_of)
    with pytest.raises(ProtocolError):
        second.finish(answer)


def test_keys_that_did_not_sign_for_themselves_are_refused() -> None:
    class Pretender:
        """A guest that knows the code and names somebody else's keys."""

        public = KITCHEN.public

        def sign(self, *what: object) -> object:
            return THIEF.sign(*what)  # type: ignore[arg-type]

    asking = Guest(CODE, Pretender(), "kitchen", drawn(1))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        Host(CODE, 0).answer(asking.frame, 0, never)


def test_bundle_that_does_not_fit_a_frame_is_told() -> None:
    with pytest.raises(ProtocolError, match="carry it in a file"):
        Host(CODE, 0).answer(guest().frame, 0, lambda asked, identity: bytes(70_000))


@given(st.binary(max_size=200))
def test_any_bytes_are_no_request_and_no_answer(data: bytes) -> None:
    for frame in (data, guest().frame[:28] + data):
        with pytest.raises(ProtocolError):
            Host(CODE, 0).answer(frame, 0, never)
        with pytest.raises(ProtocolError):
            guest().finish(frame)
