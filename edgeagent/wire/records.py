"""Records that must not be lost, from a device to whoever collects them, and the receipts that end their sending.

They travel as offers and claims do: in no fleet as messages in plain frames, in a fleet signed. No I/O, no clock.
"""

from typing import Annotated, Literal

from pydantic import Field

from edgeagent.wire.messages import Body
from edgeagent.wire.offers import Name, Number

MAX_RECORD_CHARS = 2048


class Record(Body):
    """Device: this happened. Said again until a receipt comes; `number` is random, so that it counts once."""

    type: Literal["record"] = "record"
    number: Number
    device: Name
    body: Annotated[str, Field(max_length=MAX_RECORD_CHARS)]
    """A JSON text."""


class Receipt(Body):
    """Peer: the record of that number is on my disk."""

    type: Literal["receipt"] = "receipt"
    number: Number
    peer: Name
