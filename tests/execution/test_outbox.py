"""Records that were promised arrive, each once, whatever is killed: a real broker, real files, real processes."""

import asyncio
import contextlib
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from edgeagent.application.collecting import collect
from edgeagent.broker import background
from edgeagent.execution import outbox
from edgeagent.execution.durable import Collection, Keeping, Kept, Outbox, RecordsError
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
        kept_here, collection = Outbox(tmp_path / "out.sqlite"), Collection(tmp_path / "in.sqlite")
        near, far = broker.connect(), broker.connect()
        sender = Sender(kept_here, near, TOPICS, "kitchen", PlainDevice())
        seen = broker.connect().subscribe(TOPICS.all_records())
        async with (
            background(sender.run(), "sender"),
            background(collect(collection, far, TOPICS, "garage", PlainPeer()), "collector"),
        ):
            await asyncio.sleep(0.01)
            for number in range(40):
                await sender.put(str(number))
            while kept_here.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            topic, payload = await seen.get()
            near.publish(topic, payload)  # as a broker may
            await sender.put("last")
            while kept_here.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        bodies = [kept.body for _, kept in collection.newest(100)]
        assert bodies == ["last", *(str(number) for number in reversed(range(40)))]

    asyncio.run(scene())


def test_records_that_are_put_do_not_put_off_what_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 0.3)

    async def scene() -> None:
        broker = MemoryBroker()
        seen = broker.connect().subscribe(TOPICS.all_records())
        sender = Sender(Outbox(tmp_path / "out.sqlite"), broker.connect(), TOPICS, "kitchen", PlainDevice())
        async with background(sender.run(), "sender"), asyncio.timeout(PATIENCE_S):
            await sender.put("first")
            _, first = await seen.get()
            putting = asyncio.create_task(_put_on(sender))
            while (await seen.get())[1] != first:
                pass
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)

    asyncio.run(scene())


async def _put_on(sender: Sender) -> None:
    while True:
        await sender.put("another")
        await asyncio.sleep(0.01)


def test_what_the_disk_does_not_take_gets_no_receipt_and_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 0.05)
    path, waiting = tmp_path / "in.sqlite", Outbox(tmp_path / "out.sqlite")

    async def scene() -> None:
        broker, collection = MemoryBroker(), Collection(path)
        disk = apsw.Connection(str(path))
        disk.execute("ALTER TABLE collected RENAME TO away")
        sender = Sender(waiting, broker.connect(), TOPICS, "kitchen", PlainDevice())
        seen = broker.connect().subscribe(TOPICS.all_records())
        async with (
            background(collect(collection, broker.connect(), TOPICS, "garage", PlainPeer()), "collector"),
            background(sender.run(), "sender"),
            asyncio.timeout(PATIENCE_S),
        ):
            await asyncio.sleep(0.01)
            await sender.put("kept")
            for _ in range(2):
                await seen.get()
            assert waiting.num_waiting == 1
            disk.execute("ALTER TABLE away RENAME TO collected")
            while waiting.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [kept.body for _, kept in collection.newest(9)] == ["kept"]
        disk.close()

    asyncio.run(scene())


def test_records_of_one_number_from_two_devices_are_two(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "in.sqlite")
    same = Kept("0" * 32, "x")
    assert [collection.add("kitchen", same), collection.add("kitchen", same), collection.add("attic", same)] == [
        True, False, True,
    ]  # fmt: skip


FILLED = 200_000
"""Bytes: some forty records of two kilobytes."""


def filled(path: Path, keeping: Keeping, clock: list[float]) -> Collection:
    """Until it takes nothing more."""
    collection = Collection(path, keeping, lambda: clock[0])
    with pytest.raises(RecordsError, match=r"nobody has read; read them with .* or raise peer\.collect_bytes"):
        fill(collection)
    return collection


def fill(collection: Collection) -> None:
    for number in range(1000):
        collection.add("kitchen", Kept(f"{number:032x}", "x" * 2048))


def test_collection_that_is_full_of_unread_records_takes_no_more_and_drops_none(tmp_path: Path) -> None:
    collection = filled(tmp_path / "in.sqlite", Keeping(FILLED), [0.0])
    census = collection.census()
    assert census.num_unread == census.num_records > 30
    assert census.num_dropped == 0
    assert census.bytes < FILLED + 20_000
    assert not collection.add("kitchen", Kept("0" * 32, "x" * 2048))  # it is there: its sending may end
    assert collection.census() == census


def test_what_was_read_makes_room_the_oldest_first_and_is_counted(tmp_path: Path) -> None:
    collection = filled(tmp_path / "in.sqlite", Keeping(FILLED), [0.0])
    before = collection.census()
    first = collection.unread(10)
    assert [kept.number for _, kept in first.values()] == [f"{number:032x}" for number in range(10)]
    collection.mark_read(first)
    assert collection.add("attic", Kept("f" * 32, "x" * 2048))
    after = collection.census()
    assert after.num_dropped == 10
    assert after.num_records == before.num_records - 10 + 1
    assert after.num_unread == before.num_unread - 10 + 1
    assert next(iter(collection.unread(1).values()))[1].number == f"{10:032x}"


def test_what_was_read_goes_when_it_is_old_and_what_was_not_stays(tmp_path: Path) -> None:
    clock = [1000.0]
    collection = Collection(tmp_path / "in.sqlite", Keeping(10**9, days=2), lambda: clock[0])
    for number in range(4):
        collection.add("kitchen", Kept(f"{number:032x}", "x"))
    collection.mark_read(list(collection.unread(2)))
    clock[0] += 86_400
    assert collection.drop_old() == 0
    clock[0] += 86_401
    assert collection.drop_old() == 2
    assert collection.census() == replace(collection.census(), num_records=2, num_unread=2, num_dropped=2)


def test_collection_of_an_earlier_version_is_taken_over_as_come_now(tmp_path: Path) -> None:
    path = tmp_path / "in.sqlite"
    disk = apsw.Connection(str(path))
    disk.execute(
        "CREATE TABLE collected(place INTEGER PRIMARY KEY, device TEXT, number TEXT, body, UNIQUE(device, number))"
    )
    disk.execute("INSERT INTO collected(device, number, body) VALUES('kitchen', ?, 'old')", ("0" * 32,))
    disk.close()
    clock = [10 * 86_400.0]
    collection = Collection(path, Keeping(10**9, days=2), lambda: clock[0])
    assert [kept.body for _, kept in collection.unread(9).values()] == ["old"]
    collection.mark_read(collection.unread(9))
    assert collection.drop_old() == 0
    clock[0] += 3 * 86_400
    assert Collection(path, Keeping(10**9, days=2), lambda: clock[0]).drop_old() == 1


def test_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "out.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(RecordsError, match="move the file away"):
        Outbox(path)


@pytest.mark.parametrize("kind", [Collection, Outbox])
def test_close_waits_for_what_another_thread_writes(tmp_path: Path, kind: type[Collection] | type[Outbox]) -> None:
    for turn in range(30):
        path = tmp_path / f"{turn}.sqlite"
        table = kind(path)
        began, taken = threading.Event(), list[str]()

        def write(table: Collection | Outbox = table, began: threading.Event = began, taken: list[str] = taken) -> None:
            began.set()
            with contextlib.suppress(RecordsError):  # it is closed by now
                while True:
                    record = Kept(f"{len(taken):032x}", "x" * 1000)
                    table.add("shelf", record) if isinstance(table, Collection) else table.put(record)
                    taken.append(record.number)

        writer = threading.Thread(target=write)
        writer.start()
        began.wait()
        table.close()
        writer.join(10)
        assert not writer.is_alive()
        with contextlib.closing(kind(path)) as again:
            num = again.census().num_records if isinstance(again, Collection) else again.num_waiting
            assert num == len(taken)
