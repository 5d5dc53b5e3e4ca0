"""Records that were promised arrive, each once, whatever is killed: a real broker, real files, real processes."""

import asyncio
import os
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeagent.application.collecting import collect
from edgeagent.broker import background
from edgeagent.execution.durable import Collection, Kept, Outbox, RecordsError
from edgeagent.execution.outbox import Sender
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.execution.ways import PlainDevice, PlainPeer
from edgeagent.wire.topics import Topics
from tests.conftest import Mosquitto

ENDS = Path(__file__).parent / "record_ends.py"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
TOPICS = Topics("test")


class End:
    """One of the processes; what it says is kept over its deaths."""

    def __init__(self, role: str, folder: Path, url: str, prefix: str) -> None:
        self._command = [sys.executable, str(ENDS), role, str(folder), url, prefix]
        self._said = folder / f"{role}.said"
        self.start()

    def start(self) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=said, env=env)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self) -> list[str]:
        """Whole ones."""
        return self._said.read_text().rpartition("\n")[0].split("\n")


def struck(folder: Path, broker: Mosquitto, num_kills: int, seed: int) -> tuple[list[str], list[str]]:
    """What was promised and what was collected, while putting, collecting and the broker are killed in turns."""
    draw, prefix = random.Random(seed), f"records/{secrets.token_hex(4)}"
    put, collecting = (End(role, folder, broker.url, prefix) for role in ("put", "collect"))
    try:
        _until(lambda: len(put.lines()) > 20)
        for number in range(num_kills):
            time.sleep(draw.uniform(0.3, 1.2))
            match number % 3:
                case 0:
                    broker.kill()
                    broker.start()
                case 1:
                    collecting.kill()
                    collecting.start()
                case _:
                    put.kill()
                    put.start()
        put.kill()
        promised = put.lines()
        last = End("put", folder, broker.url, prefix)  # what a killed one left is sent by the next
        try:
            collection = Collection(folder / "collected.sqlite")
            _until(lambda: set(promised) <= {kept.body for _, kept in collection.newest(10**6)})
            return promised, [kept.body for _, kept in collection.newest(10**6)]
        finally:
            last.kill()
    finally:
        put.kill()
        collecting.kill()


def _until(is_so: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_ends_and_brokers_lose_no_record_and_bring_none_twice(tmp_path: Path, mosquitto: Mosquitto) -> None:
    promised, collected = struck(tmp_path, mosquitto, num_kills=6, seed=1)
    assert len(promised) > 100
    assert len(collected) == len(set(collected))


@pytest.mark.long
def test_fifty_kills_lose_no_record_and_bring_none_twice(tmp_path: Path, mosquitto: Mosquitto) -> None:
    promised, collected = struck(tmp_path, mosquitto, num_kills=50, seed=2)
    sys.stderr.write(f"50 kills, {len(promised)} promised, {len(collected)} collected\n")
    assert len(collected) == len(set(collected))


def test_what_comes_again_is_collected_once_and_ends_the_sending_each_time(tmp_path: Path) -> None:
    async def scene() -> None:
        broker = MemoryBroker()
        outbox, collection = Outbox(tmp_path / "out.sqlite"), Collection(tmp_path / "in.sqlite")
        near, far = broker.connect(), broker.connect()
        sender = Sender(outbox, near, TOPICS, "kitchen", PlainDevice())
        seen = broker.connect().subscribe(TOPICS.all_records())
        async with (
            background(sender.run(), "sender"),
            background(collect(collection, far, TOPICS, "garage", PlainPeer()), "collector"),
        ):
            await asyncio.sleep(0.01)
            for number in range(40):
                await sender.put(str(number))
            while outbox.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            topic, payload = await seen.get()
            near.publish(topic, payload)  # as a broker may
            await sender.put("last")
            while outbox.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        bodies = [kept.body for _, kept in collection.newest(100)]
        assert bodies == ["last", *(str(number) for number in reversed(range(40)))]

    asyncio.run(scene())


def test_records_of_one_number_from_two_devices_are_two(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "in.sqlite")
    same = Kept("0" * 32, "x")
    assert [collection.add("kitchen", same), collection.add("kitchen", same), collection.add("attic", same)] == [
        True, False, True,
    ]  # fmt: skip


def test_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "out.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(RecordsError, match="move the file away"):
        Outbox(path)
