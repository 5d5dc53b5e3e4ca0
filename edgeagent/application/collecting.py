"""The peer collects what devices record, and gives receipts for what is on its disk."""

import asyncio
import contextlib
import logging

from edgeagent.core.errors import PeerLostError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.durable import Collection, Kept, RecordsError
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.ways import PeerWay
from edgeagent.wire.records import Receipt
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)


async def collect(collection: Collection, transport: Transport, topics: Topics, peer: str, way: PeerWay) -> None:
    """Until cancelled. What the disk does not take gets no receipt, and so comes again."""
    records, bad = transport.subscribe(topics.all_records()), Dropping(log, "a record")
    while True:
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
