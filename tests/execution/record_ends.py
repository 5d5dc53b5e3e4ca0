"""The two ends of an outbox as processes that a test can kill: `put|collect FOLDER URL PREFIX`."""

import asyncio
import contextlib
import sys
from pathlib import Path

from edgeagent.application.collecting import collect
from edgeagent.broker import background
from edgeagent.core.errors import PeerLostError
from edgeagent.execution.durable import Collection, Outbox
from edgeagent.execution.outbox import Sender
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.execution.ways import PlainDevice, PlainPeer
from edgeagent.wire.topics import Topics


async def put(folder: Path, transport: MqttTransport, topics: Topics) -> None:
    """Records 0, 1, 2 … of this run; each is told on stdout when it is promised, and not before."""
    sender = Sender(Outbox(folder / "outbox.sqlite"), transport, topics, "kitchen", PlainDevice())
    run = (folder / "runs").open("a+")
    run.write("x")
    run.flush()
    async with background(sender.run(), "sender"):
        for number in range(10**6):
            body = f"{run.tell()}-{number}"
            await sender.put(body)
            sys.stdout.write(f"{body}\n")
            sys.stdout.flush()
            await asyncio.sleep(0.004)


async def main(role: str, folder: Path, url: str, prefix: str) -> None:
    transport = None
    while transport is None:
        with contextlib.suppress(PeerLostError):  # the broker may be away just now
            transport = await MqttTransport.connect(parse_address(url), f"{role}-{prefix}")
    topics = Topics(prefix)
    if role == "put":
        await put(folder, transport, topics)
    else:
        await collect(Collection(folder / "collected.sqlite"), transport, topics, "garage", PlainPeer())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
