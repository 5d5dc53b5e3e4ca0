"""docs/protocol.md says what the code does: its vectors, its keys, its numbers."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from edgeagent.core.errors import WireError
from edgeagent.wire.frames import Kind, block_digest, decode_fragment, decode_frame
from edgeagent.wire.messages import (
    Body,
    KnownLink,
    Message,
    OfferedModel,
    Onward,
    PeerStatus,
    decode_message,
    decode_status,
    decode_tokens,
    decode_turns,
)
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.records import Receipt, Record
from edgeagent.wire.sealing import Aead, Channel, DirectionKey

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
BODIES: tuple[type[Body], ...] = (
    *get_args(get_args(Message)[0]),
    PeerStatus,
    OfferedModel,
    KnownLink,
    Onward,
    JobOffer,
    JobClaim,
    Record,
    Receipt,
)


def vectors(title: str) -> list[str]:
    found = re.search(rf"^### {re.escape(title)}\n\n```text\n(.*?)\n```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1].splitlines()


def test_document_holds_exactly_what_the_tool_prints() -> None:
    tool = ROOT / "tools/protocol_vectors.py"
    printed = subprocess.run(
        [sys.executable, str(tool)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True, stdout=-1
    )
    begin, end = (DOCUMENT.index(f"<!-- vectors: {word}") for word in ("begin", "end"))
    written = DOCUMENT[DOCUMENT.index("\n", begin) + 1 : end]
    assert written.encode() == printed.stdout, "run: python tools/protocol_vectors.py --write"


def test_every_example_message_is_one_of_this_protocol() -> None:
    decoded = [decode_message(line.encode()) for line in vectors("Messages")]
    types = {body.model_fields["type"].default for body in get_args(get_args(Message)[0])}
    assert {message.type for message in decoded} == types


def test_example_statuses_decode() -> None:
    assert [decode_status(line.encode()).state for line in vectors("A peer's status")] == ["online", "offline"]


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ('"prefill_tok_s":400.0', '"prefill_tok_s":1e999'),
        ('"decode_tok_s":140.0', '"decode_tok_s":5e-324'),
        ('"decode_tok_s":140.0', '"decode_tok_s":NaN'),
        ('"queue":1', f'"queue":{10**400}'),
        ('"slots":1', f'"slots":{10**400}'),
        ('"most_between":12', f'"most_between":{10**400}'),
        ('"rtt_s":0.004', '"rtt_s":NaN'),
        ('"up_bytes_s":2500000.0', '"up_bytes_s":0'),
        ('"wait_s":3.25', '"wait_s":Infinity'),
    ],
)
def test_status_with_a_number_that_cannot_be_reckoned_with_is_refused(told: str, wrong: str) -> None:
    online = vectors("A peer's status")[0]
    assert told in online
    with pytest.raises(WireError):
        decode_status(online.replace(told, wrong).encode())


def test_example_prompts_decode_to_what_stands_beside_them() -> None:
    tokens, encoded, _, turns = vectors("Prompts")
    assert str(list(decode_tokens(bytes.fromhex(encoded)))) == tokens.removeprefix("tokens ")
    assert decode_turns(turns.encode())[1].content == "Grüße?"


def test_example_frames_decode_and_their_fragment_matches_its_digest() -> None:
    lines = vectors("Plain frames")
    border = next(i for i, line in enumerate(lines) if line.startswith("fragment"))
    message, piece = (decode_frame(bytes.fromhex("".join(rows))) for rows in (lines[2:border], lines[border + 1 :]))
    assert (message.kind, piece.kind) == (Kind.MESSAGE, Kind.FRAGMENT)
    assert message.session == piece.session == bytes(range(16))
    _, fragment = decode_fragment(piece.payload)
    assert fragment.digest == block_digest(fragment.data)


def test_example_sealed_frames_open_with_the_key_beside_them() -> None:
    rows = vectors("Sealed frames")
    starts = [i for i, row in enumerate(rows) if ", key " in row]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        aead, key = rows[start].split(", key ")
        mask, session = re.fullmatch(r"mask (\w+), session (\w+)", rows[start + 1]).groups()  # type: ignore[union-attr]
        up = DirectionKey(bytes.fromhex(key), bytes.fromhex(mask))
        channel = Channel(bytes.fromhex(session), Aead[aead], sending=up, receiving=up)
        pieces = re.split(r"lane \d, \w+: \d+ bytes", "".join(rows[start + 2 : end]))[1:]
        kinds = [channel.open(bytes.fromhex(piece)).kind for piece in pieces]
        assert kinds == [Kind.MESSAGE, Kind.MESSAGE, Kind.FRAGMENT]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_every_key_of_a_message_is_explained(body: type[Body]) -> None:
    prose = DOCUMENT[: DOCUMENT.index("## Vectors")]
    missing = [key for key in body.model_fields if key != "type" and f"`{key}`" not in prose]
    assert missing == []
