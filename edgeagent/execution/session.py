"""One job between a device and a peer: messages and blocks both ways, with a lease. The same on both ends."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from edgeagent.core.errors import PeerLostError, WireError
from edgeagent.execution.dropping import Dropping
from edgeagent.wire.blocks import BlockReceiver
from edgeagent.wire.frames import Frame, FrameChannel, Kind, Lane, decode_fragment, encode_fragment
from edgeagent.wire.messages import (
    LEASE_S,
    Ack,
    KeepAlive,
    Message,
    Numbered,
    Open,
    Resume,
    Step,
    decode_message,
    encode_message,
)
from edgeagent.wire.numbering import Incoming, Order, Outgoing
from edgeagent.wire.sending import BlockSender
from edgeagent.wire.window import Pace

log = logging.getLogger(__name__)

MAX_INBOX = 4096

Publish = Callable[[bytes, bool], None]
"""Sends one encoded frame; True picks the bulk connection."""


@dataclass(frozen=True, slots=True)
class BlockArrived:
    index: int


Arrived = Message | BlockArrived


class Session:
    """Feed it frames, receive messages and blocks; it acknowledges, keeps alive and answers pings by itself.

    With `serves` the other end opens the job: its prompt is expected from then on. `pace` is what an earlier session
    found out about the link.
    """

    def __init__(
        self, channel: FrameChannel, publish: Publish, *, serves: bool = False, pace: Pace | None = None
    ) -> None:
        self.id = channel.session
        self.up_bytes = 0
        self.down_bytes = 0
        self.receiver = BlockReceiver({})
        self.rtt_s: float | None = None
        self._sender: BlockSender | None = None
        self._is_bulk = True
        self._known_pace = pace
        self._timer: asyncio.TimerHandle | None = None
        self._has_moved = asyncio.Event()
        """Set when a block may have got further on its way."""
        self._channel = channel
        self._publish = publish
        self._awaits_open = serves
        self._split: Open | None = None
        self._inbox: asyncio.Queue[Arrived | Exception] = asyncio.Queue()
        self._pinged_at = 0.0
        self._bad_frames = Dropping(log, "a frame of a session")
        self._outgoing = Outgoing()
        self._incoming = Incoming()

    def send(self, message: Message) -> None:
        """Without a connection it goes when there is one again, as `resume` is called then.

        Raises PeerLostError when the other end has long acknowledged nothing.
        """
        if isinstance(message, Numbered):
            message = self._outgoing.add(message, time.monotonic())
        self._try_to_send(message)

    @property
    def is_all_seen(self) -> bool:
        """Whether the other end has told to have every message that must not be lost."""
        return self._outgoing.is_empty

    def resume(self) -> None:
        """A connection was away and is back: what may have been lost is said again, and asked for.

        A session that cannot go on (the broker takes less than before) fails alone.
        """
        try:
            for message in self._outgoing.again(time.monotonic()):
                self._try_to_send(message)
            self._try_to_send(Resume(seen=self._incoming.seen))
            self._resume_blocks()
        except WireError as error:
            self.fail(error)

    def _resume_blocks(self) -> None:
        if self._sender:
            self._sender.resume(time.monotonic())
            self._pump_later()

    def _try_to_send(self, message: Message) -> None:
        with contextlib.suppress(PeerLostError):
            self._send_frame(Kind.MESSAGE, encode_message(message), bulk=False)

    def expect(self, sizes: dict[int, int]) -> None:
        """Take blocks of exactly these indexes and sizes, and no others. Raises WireError for too many."""
        self.receiver = BlockReceiver(sizes)

    def expect_split(self, job: Open) -> None:
        """Take the hidden states of a split job, and of its steps: call it when what the device says was checked."""
        self.expect(job.block_sizes())
        self._split = job

    def send_blocks(self, blocks: Iterable[tuple[int, bytes]], *, bulk: bool) -> None:
        """Send blocks in this order, behind those sent before; acknowledgements keep it going.

        Small blocks go with the messages (`bulk=False`), and then arrive in order with them. A session has one kind.
        """
        if self._sender is None:
            self._sender, self._is_bulk = BlockSender(blocks, self._known_pace), bulk
        else:
            assert self._is_bulk == bulk, "the blocks of a session go one way"
            self._sender.add(blocks)
        self._pump_later()

    async def until_sent(self, patience_s: float) -> None:
        """Until no block waits to be sent or acknowledged. Raises PeerLostError when for so long none got further."""
        await self._until(lambda sender: sender.is_done, patience_s)

    async def until_room(self, num_bytes: int, patience_s: float) -> None:
        """Until no more than so many bytes of blocks have still to leave: then another may be made. Raises as above.

        With room for one block the link is kept busy while the next is made, and what waits here is two at most.
        """
        await self._until(lambda sender: sender.num_queued_bytes <= num_bytes, patience_s)

    async def _until(self, is_so: Callable[[BlockSender], bool], patience_s: float) -> None:
        while (sender := self._sender) and not is_so(sender):
            before = sender.num_arrived
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while not is_so(sender):
                        self._has_moved.clear()
                        await self._has_moved.wait()
            if not is_so(sender) and sender.num_arrived == before:
                raise PeerLostError(f"the other end acknowledged nothing for {patience_s:g} s")

    def skip_blocks_before(self, block: int) -> None:
        """The other end has made these itself."""
        if self._sender:
            self._sender.skip_before(block)
            self._pump_later()

    @property
    def pace(self) -> Pace | None:
        """Of the link to the other end, as far as blocks have shown it."""
        return (self._sender and self._sender.pace) or self._known_pace

    def feed(self, data: bytes) -> None:
        """Take one arrived frame. One that the other end did not make is dropped; one that breaks the protocol ends the
        session, not the process."""
        try:
            frame = self._channel.open(data)
        except WireError as error:
            self._bad_frames.note(error)
            return
        self.down_bytes += len(data)
        try:
            self._take(frame)
        except (WireError, PeerLostError) as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """The reader gets the error behind what came before. One that does not read is not told of ever more."""
        if self._inbox.qsize() <= MAX_INBOX:
            self._inbox.put_nowait(error)

    async def receive(self) -> Arrived:
        """The next message or block. Raises PeerLostError after a lease of silence, WireError on a broken frame."""
        try:
            async with asyncio.timeout(LEASE_S):
                item = await self._inbox.get()
        except TimeoutError:
            if self._inbox.empty():  # else it is this process that stood still, and what came meanwhile is here
                raise PeerLostError(f"the other end said nothing for {LEASE_S:g} s") from None
            item = self._inbox.get_nowait()
        if isinstance(item, Exception):
            raise item
        return item

    @contextlib.asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """While inside, the other end hears from us several times a lease."""
        task = asyncio.create_task(self._keep_alive(), name="session-keepalive")
        try:
            yield
        finally:
            self._stop_sending()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_alive(self) -> None:
        while True:
            self.ping()
            await asyncio.sleep(LEASE_S / 4)

    def ping(self) -> None:
        self._pinged_at = time.monotonic()
        self.send(KeepAlive(ping=int(self._pinged_at * 1e6), seen=self._incoming.seen))

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.FRAGMENT:
            self._take_fragment(frame.payload)
            return
        message = decode_message(frame.payload)
        if isinstance(message, Numbered) and message.number is not None and not self._is_next(message.number):
            self._deliver(KeepAlive())  # a sign of life, and no more
            return
        match message:
            case Ack() if self._sender:
                self._sender.acknowledge(message, time.monotonic())
                self._pump_later()
                self._deliver(message)
            case KeepAlive():
                self._take_keepalive(message)
                self._deliver(KeepAlive())
            case Resume(seen=seen):
                self._say_again(seen)
                self._resume_blocks()
                self._deliver(KeepAlive())
            case Open() as job:
                self._take_open(job)
            case Step() as step:
                self._take_step(step)
            case _:
                self._deliver(message)

    def _is_next(self, number: int) -> bool:
        order = self._incoming.take(number)
        if order is Order.EARLY and self._incoming.is_news():
            self._try_to_send(Resume(seen=self._incoming.seen))
        return order is Order.NEXT

    def _take_keepalive(self, message: KeepAlive) -> None:
        now_s = time.monotonic()
        if message.ping is not None:
            self.send(KeepAlive(pong=message.ping, seen=self._incoming.seen))
        if message.pong == int(self._pinged_at * 1e6):
            self.rtt_s = now_s - self._pinged_at
        if message.seen is not None:
            self._outgoing.note_seen(message.seen, now_s)
            if self._outgoing.is_overdue(now_s):
                self._say_again(message.seen)

    def _say_again(self, seen: int) -> None:
        """What the other end, which has all before `seen`, has not."""
        now_s = time.monotonic()
        self._outgoing.note_seen(seen, now_s)
        for message in self._outgoing.again(now_s):
            self._try_to_send(message)

    def _take_open(self, job: Open) -> None:
        # Here and not where messages are read: the prompt's fragments may be in the next frame.
        if not self._awaits_open:
            raise WireError("the other end opened a job where none may be opened")
        self._awaits_open = False
        if job.stage is None:
            self.expect(job.block_sizes())
        self._deliver(job)

    def _take_step(self, step: Step) -> None:
        if self._split is None or self._split.job != "split-decode":
            raise WireError("a step came where no model is split")
        self.receiver.expect({step.block: self._split.step_bytes(1 + len(step.guesses))})
        self._deliver(step)

    def _deliver(self, item: Arrived) -> None:
        if self._inbox.qsize() >= MAX_INBOX:
            raise WireError(f"more than {MAX_INBOX} messages wait to be read")
        self._inbox.put_nowait(item)

    def _take_fragment(self, payload: bytes) -> None:
        number, fragment = decode_fragment(payload)
        completed = self.receiver.take(number, fragment)
        if completed is not None:
            self._deliver(BlockArrived(completed))
        if completed is not None or self.receiver.ack_due():
            self.send(self.receiver.ack())

    def _pump(self) -> None:
        """Send what may go now, and come again when more may."""
        assert self._sender is not None
        if self._timer is not None:
            self._timer.cancel()
        try:
            for number, fragment in self._sender.take(time.monotonic()):
                self._send_frame(Kind.FRAGMENT, encode_fragment(number, fragment), bulk=self._is_bulk)
        finally:  # what did not leave is asked about like what was lost
            if (at_s := self._sender.next_at_s) is not None:
                self._timer = asyncio.get_running_loop().call_at(at_s, self._pump_later)
        self._has_moved.set()

    def _pump_later(self) -> None:
        with contextlib.suppress(PeerLostError):  # what did not leave is asked about when the connection is back
            self._pump()

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _send_frame(self, kind: Kind, payload: bytes, *, bulk: bool) -> None:
        data = self._channel.seal(kind, payload, Lane.BLOCKS if bulk else Lane.MESSAGES)
        self.up_bytes += len(data)
        self._publish(data, bulk)
