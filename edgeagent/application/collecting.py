"""The peer collects what devices record, and gives receipts for what is on its disk."""

import asyncio
import contextlib
import logging
import time

from edgeagent.core.errors import PeerLostError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.durable import Collection, Kept, RecordsError
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.ways import PeerWay
from edgeagent.wire.records import Receipt
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)

SWEEP_S = 3600.0
"""Between two looks for what is too old, if something comes at all."""


async def collect(collection: Collection, transport: Transport, topics: Topics, peer: str, way: PeerWay) -> None:
    """Until cancelled. What the disk does not take gets no receipt, and so comes again."""
    records, bad = transport.subscribe(topics.all_records()), Dropping(log, "a record")
    swept_at_s: float | None = None
    while True:
        if swept_at_s is None or time.monotonic() - swept_at_s > SWEEP_S:
            with contextlib.suppress(RecordsError):  # adding tells what is wrong with the disk
                await asyncio.to_thread(collection.drop_old)
            swept_at_s = time.monotonic()
        try:
            _, payload = await records.get()
            record = way.read_record(payload)
        except PeerLostError:
            continue  # what was lost is sent again
        except WireError as error:
            bad.note(error)
            continue
        try:
            await asyncio.to_thread(collection.add, record.device, Kept(record.number, record.body))
        except RecordsError as error:
            bad.note(error)
            continue
        with contextlib.suppress(PeerLostError):
            receipt = way.tell(Receipt(number=record.number, peer=peer))
            transport.publish(topics.receipts(record.device), receipt)
