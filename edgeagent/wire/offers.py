"""Jobs that are offered to whichever peer is free, and the claims that answer them: sizes and times, no content.

They travel as notes (`notes`). No I/O, no clock.
"""

from typing import Annotated, Literal

from pydantic import Field

from edgeagent.core.cards import Sha256
from edgeagent.wire.messages import MAX_PROMPT_TOKENS, Body, Run
from edgeagent.wire.topics import ID_PATTERN

MAX_RUNS = 128
"""Peers that one offer names: so many fit a note."""

Number = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]


class JobOffer(Body):
    """Device, to some peer that holds the model: when could you do this? `number` is random; claims repeat it."""

    type: Literal["offer"] = "offer"
    number: Number
    device: Name
    job: Literal["prefill", "remote"]
    model: Name
    variant_sha256: Sha256 | None = None
    exact_key: Annotated[str, Field(max_length=64)] = ""
    """As in an Open: a peer that has another one has nothing to claim."""
    prompt_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)]
    answer_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)]
    """How many it will probably become."""
    runs: Annotated[tuple[Run, ...], Field(max_length=MAX_RUNS)] = ()
    """Of the peers that the device would take, as their statuses told them. A peer that was started since refuses: the
    offer may be an old one that somebody has kept."""
    deadline_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds from now after which nobody wants it any more."""


class JobClaim(Body):
    """Peer, to the device: I would be done so soon, and keep a place for you for a lease. Or: not I (`refused`)."""

    type: Literal["claim"] = "claim"
    number: Number
    peer: Name
    finish_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from now until the whole job would be done, by what the peer has to do already."""
    refused: Annotated[str, Field(pattern=r"^[a-z_]{0,64}$")] = ""
    """An error's code; empty: it is claimed."""
