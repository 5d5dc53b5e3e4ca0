"""Sends what is in an outbox until receipts come for it, whatever dies on the way.

A broker's PUBACK ends nothing: one that is killed forgets what it has acknowledged. Only a receipt does, which whoever
collects gives when a record is on its own disk.
"""

import asyncio
import logging
import secrets

from edgeagent.core.errors import PeerError, PeerLostError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.durable import Kept, Outbox, RecordsError
from edgeagent.execution.transport.base import Subscription, Transport
from edgeagent.execution.ways import DeviceWay
from edgeagent.wire.records import Receipt, Record
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)

WINDOW = 16
"""Records under way at once."""
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0
"""What is under way is sent again after so long, then twofold, until something comes."""


class Sender:
    """Of the device `device`. The outbox is used in threads, one call at a time."""

    def __init__(self, outbox: Outbox, transport: Transport, topics: Topics, device: str, way: DeviceWay) -> None:
        self._outbox = outbox
        self._transport = transport
        self._topics = topics
        self._device = device
        self._way = way
        self._news = asyncio.Event()
        self._lock = asyncio.Lock()
        self._wait_s = FIRST_WAIT_S
        self._again_at_s = 0.0
        """On the loop's clock: when all that is under way is sent again."""
        self._is_back = False
        self._bad_disk = Dropping(log, "what an outbox should do")

    async def put(self, body: str) -> None:
        """On the disk when this returns. Raises RecordsError."""
        async with self._lock:
            await asyncio.to_thread(self._outbox.put, Kept(secrets.token_hex(16), body))
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        receipts = self._transport.subscribe(self._topics.receipts(self._device))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(receipts), name="outbox-receipts")
            group.create_task(self._send(), name="outbox-send")
            group.create_task(self._follow(), name="outbox-follow")

    async def _send(self) -> None:
        """The oldest, again and again: whatever comes makes room for the next ones, and patience short again.

        Records that are put meanwhile do not put off the next time.
        """
        sent, loop = frozenset[str](), asyncio.get_running_loop()
        while True:
            self._news.clear()
            try:
                async with self._lock:
                    waiting = await asyncio.to_thread(self._outbox.oldest, WINDOW)
            except RecordsError as error:
                self._bad_disk.note(error)
                await asyncio.sleep(MAX_WAIT_S)
                continue
            self._publish([record for record in waiting if record.number not in sent])
            if not sent:
                self._again_at_s = loop.time() + self._wait_s
            sent = frozenset(record.number for record in waiting)
            try:
                async with asyncio.timeout_at(self._again_at_s if waiting else None):
                    await self._news.wait()
            except TimeoutError:
                self._wait_s = min(2 * self._wait_s, MAX_WAIT_S)
                sent = frozenset()
            if self._is_back:
                self._is_back, sent = False, frozenset()

    async def _follow(self) -> None:
        """What was sent over a connection that is gone may be lost."""
        num = self._transport.returns.num
        while True:
            num = await self._transport.returns.after(num)
            self._is_back, self._wait_s = True, FIRST_WAIT_S
            self._news.set()

    def _publish(self, records: list[Kept]) -> None:
        for each in records:
            record = Record(number=each.number, device=self._device, body=each.body)
            try:
                self._transport.publish(self._topics.records(self._device), self._way.tell(record))
            except PeerError:
                return  # later

    async def _read(self, receipts: Subscription) -> None:
        bad = Dropping(log, "a receipt")
        while True:
            try:
                _, payload = await receipts.get()
                receipt: Receipt = self._way.read_receipt(payload)
            except PeerLostError:
                continue
            except WireError as error:
                bad.note(error)
                continue
            try:
                async with self._lock:
                    await asyncio.to_thread(self._outbox.remove, receipt.number)
            except RecordsError as error:  # it is sent again, and so is its receipt
                self._bad_disk.note(error)
                continue
            self._wait_s = FIRST_WAIT_S
            self._again_at_s = min(self._again_at_s, asyncio.get_running_loop().time() + FIRST_WAIT_S)
            self._news.set()
