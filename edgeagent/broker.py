"""The way to the broker: which address may be used, and how sessions over it are opened, by this machine's fleet."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING

from edgeagent.core.errors import PeerLostError, TrustError
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.transport.mqtt import LastWill, MqttTransport, parse_address
from edgeagent.execution.ways import DeviceWay, PeerWay, PlainDevice, PlainPeer
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.settings import Settings
from edgeagent.wire.topics import Topics

if TYPE_CHECKING:  # keys need a library that a machine in no fleet does not load
    from edgeagent.execution.trust.standing import Standing

log = logging.getLogger(__name__)


class Trust:
    """Who this machine is to others. In no fleet, sessions are plain, and the broker must be on this machine."""

    def __init__(self, standing: "Standing | None") -> None:
        self._standing = standing

    @classmethod
    def of(cls, settings: Settings) -> "Trust":
        """Raises TrustError for key files that are damaged or not private."""
        if not settings.paths.trust.exists():
            return cls(None)
        from edgeagent.execution.trust.standing import load_standing

        return cls(load_standing(settings.paths.trust, time.time))

    @property
    def is_enrolled(self) -> bool:
        return self._standing is not None

    def device(self, name: str) -> DeviceWay:
        """Without a credential that holds, no peer is asked: that is logged here, and costs no answer."""
        if self._standing is None:
            return PlainDevice()
        from edgeagent.execution.trust.sealed import SealedDevice, check_standing
        from edgeagent.wire.sealing import aead_for

        try:
            check_standing(self._standing, "device", name)
        except TrustError as error:
            log.error("no peer will be asked: %s", error)
        return SealedDevice(self._standing, aead_for(read_cpu(Sysroot()).features))

    def peer(self, name: str) -> PeerWay:
        """Raises TrustError when this machine may not act as a peer of that name."""
        if self._standing is None:
            return PlainPeer()
        from edgeagent.execution.trust.sealed import SealedPeer, check_standing

        check_standing(self._standing, "peer", name)
        return SealedPeer(self._standing, time.time)

    @contextlib.asynccontextmanager
    async def followed(
        self, transport: Transport, topics: Topics, on_newer: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Newer lists of revocations are taken from the broker while inside."""
        if self._standing is None:
            yield
            return
        from edgeagent.execution.trust.standing import follow_revocations

        async with background(follow_revocations(transport, topics, self._standing, on_newer), "revocations"):
            yield


async def connect_broker(
    settings: Settings,
    client_id: str,
    trust: Trust,
    will: LastWill | None = None,
    *,
    signs: bool = False,
    is_lasting: bool = False,
) -> MqttTransport:
    """Raises ConfigError for an address that may not be used, PeerLostError for one that does not answer.

    `signs`: what is sent is signed or sealed whoever sends it (pairing, lists), so any broker may carry it.
    `is_lasting`: there is one such process of a machine, and the broker knows it by the same name after a restart.
    """
    config = settings.config.mqtt
    if not config.url:
        raise PeerLostError("no broker is set; set mqtt.url, for example to mqtt://127.0.0.1:1883")
    address = parse_address(
        config.url, config.username, config.password, config.ca_file, is_enrolled=trust.is_enrolled or signs
    )
    name = client_id if is_lasting else f"{client_id}-{secrets.token_hex(3)}"
    return await MqttTransport.connect(address, name, will)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("%s ended, and is not there until a restart: %s", task.get_name(), error, exc_info=error)


@contextlib.asynccontextmanager
async def background(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """`work` runs while inside; its failure is logged at once and raised at the end, its cancellation is not."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
