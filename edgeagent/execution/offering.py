"""The device's offers: jobs without content, given by the broker to some of the peers that hold the model.

Each offer goes out in NUM_COPIES, so that the broker's turns bring it to several peers, and the earliest predicted
finish among their claims wins (two choices are nearly as good as all: M. Mitzenmacher, IEEE TPDS 12(10), 2001). One
that is refused is made again at once, one that nobody answers after the lease: the broker had given it to peers that
are gone.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeagent.core.errors import PeerLostError, PeerRefusedError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.ways import DeviceWay
from edgeagent.wire.messages import LEASE_S
from edgeagent.wire.offers import MAX_RUNS, JobClaim, JobOffer
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)

NUM_COPIES = 2
NUM_TRIES = 3
LEAST_PATIENCE_S = 0.03
"""What a second claim is waited for at least, once there is a first; else as long again as that took."""
MAX_CLAIMS = 16
"""Answers to one offer that wait to be read; anybody may send some."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job as peers are told of it. `has_time`: silence is worth waiting out, as nobody else could do it."""

    job: Literal["prefill", "remote"]
    model: str
    variant_sha256: str | None
    exact_key: str
    prompt_tokens: int
    answer_tokens: int
    has_time: bool = False


class Offers:
    """Of the device `device`. `rank` is when a claim would be fulfilled; None: it does not count."""

    def __init__(
        self,
        transport: Transport,
        topics: Topics,
        device: str,
        way: DeviceWay,
        rank: Callable[[JobClaim], float | None],
    ) -> None:
        self._transport = transport
        self._topics = topics
        self._device = device
        self._way = way
        self._rank = rank
        self._bad_claims = Dropping(log, "a claim")
        self._claims: dict[bytes, asyncio.Queue[bytes]] = {}

    def take(self, number: bytes, data: bytes) -> bool:
        """Whether that is the number of an offer that is out; then what came is looked at."""
        if (claims := self._claims.get(number)) is None:
            return False
        if claims.qsize() < MAX_CLAIMS:
            claims.put_nowait(data)
        return True

    async def place(self, wanted: Wanted, holders: Mapping[str, str | None]) -> str:
        """The peer of these that promises to be done first, and keeps a place for us for a lease. Each comes with its
        run, if it tells one.

        Raises PeerRefusedError when all refuse, PeerLostError when none says anything.
        """
        claims: list[JobClaim] = []
        for _ in range(NUM_TRIES):
            claims = await self._answers(wanted, [run for run in holders.values() if run])
            # Another one may claim, but not get the text: it may not have it, or does not hold the very variant.
            ranks = {claim.peer: self._rank(claim) for claim in claims if claim.peer in holders}
            found = {peer: rank for peer, rank in ranks.items() if rank is not None}
            if found:
                return min(found, key=lambda peer: found[peer])
            if not claims and not wanted.has_time:
                break
        if claims:
            raise PeerRefusedError(f"every peer refused a job with '{wanted.model}'; try again later")
        raise PeerLostError(f"no peer answered an offer of a job with '{wanted.model}'")

    async def _answers(self, wanted: Wanted, runs: Sequence[str]) -> list[JobClaim]:
        """What peers say to one offer."""
        offer = JobOffer(
            number=secrets.token_hex(16),
            device=self._device,
            job=wanted.job,
            model=wanted.model,
            variant_sha256=wanted.variant_sha256,
            exact_key=wanted.exact_key,
            prompt_tokens=wanted.prompt_tokens,
            answer_tokens=wanted.answer_tokens,
            runs=tuple(random.sample(runs, min(len(runs), MAX_RUNS))),
        )
        payload, number = self._way.tell(offer), bytes.fromhex(offer.number)
        self._claims[number] = asyncio.Queue()
        try:
            for _ in range(NUM_COPIES):
                self._transport.publish(self._topics.offers(wanted.model), payload)
            return await self._collected(offer.number, self._claims[number])
        finally:
            del self._claims[number]

    async def _collected(self, number: str, arrived: "asyncio.Queue[bytes]") -> list[JobClaim]:
        """One for each copy; when one is silent, what came."""
        found: list[JobClaim] = []
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEASE_S) as patience:
                while len(found) < NUM_COPIES:
                    claim = self._read(await arrived.get())
                    if claim is not None and claim.number == number:
                        found.append(claim)
                        again_s = max(loop.time() - began_at, LEAST_PATIENCE_S)
                        patience.reschedule(min(began_at + LEASE_S, loop.time() + again_s))
        return found

    def _read(self, data: bytes) -> JobClaim | None:
        try:
            return self._way.read_claim(data)
        except WireError as error:
            self._bad_claims.note(error)
            return None
