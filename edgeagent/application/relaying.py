"""Whom a peer would pass hidden states on to: it acts as a device towards them, and measures its way there once.

Sessions tell of a link from then on: what is idle sends nothing.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator

from edgeagent.core.errors import PeerError
from edgeagent.execution.peers import REFRESH_S, Peers, PeerView
from edgeagent.wire.messages import MAX_LINKS, KnownLink

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks for peers whose link is not known."""


class Relay:
    """`own` is this peer's id, `variants` are the hashes of what it offers."""

    def __init__(self, peers: Peers, own: str, variants: Collection[str | None]) -> None:
        self.peers = peers
        self._own = own
        self._variants = frozenset(variants) - {None}

    async def run(self) -> None:
        """Read what other peers say, and measure the way to new ones, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.peers.run(), name="relay-peers")
            group.create_task(self._measure(), name="relay-links")

    def links(self) -> tuple[KnownLink, ...]:
        """To peers that have the rest of what is offered here, as far as they were measured."""
        found = [link for view in self._next() if (link := _known(view)) is not None]
        return tuple(found[:MAX_LINKS])

    def _next(self) -> Iterator[PeerView]:
        """Peers that run tails of a variant that is offered here."""
        for view in self.peers.views():
            has_tails = any(m.cuts and m.variant_sha256 in self._variants for m in view.status.models)
            if view.status.id != self._own and has_tails and not self.peers.is_broken(view):
                yield view

    async def _measure(self) -> None:
        while True:
            for view in list(self._next()):
                if _known(view) is None:
                    await self._measure_link(view.status.id)
            await asyncio.sleep(LOOK_S)

    async def _measure_link(self, peer: str) -> None:
        try:
            async with asyncio.timeout(REFRESH_S):
                await self.peers.measure_link(peer)
        except PeerError as error:
            log.info("link to peer %s not measured: %s", peer, error)
        except TimeoutError:  # what came until then was measured
            log.info("the link to peer %s is slow", peer)


def _known(view: PeerView) -> KnownLink | None:
    link = view.link
    if link.rtt_s is None or link.down_bytes_s is None:
        return None
    up = link.up_bytes_s or link.down_bytes_s  # until hidden states have gone up, the way is taken to be as fast
    return KnownLink(peer=view.status.id, rtt_s=link.rtt_s, up_bytes_s=up, down_bytes_s=link.down_bytes_s)
