"""The framed pipe between daemon and worker: one packet a message, its JSON and what bulk bytes fit behind it.

A packet on a `SOCK_SEQPACKET` socket keeps its borders and can carry file descriptors, so tensors travel as
an anonymous memory file (`memfd`) beside the packet instead of through it. Bulk is read by whoever receives it; files
are handed over unread, under the message's key `files`.

A packet is the length of its JSON (u32, little endian), the JSON, and the bulk, unless that is in a file.
"""

import json
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""JSON between two halves of this program; each end validates what it uses."""
Received = tuple[Message, bytes]
"""A message and its bulk."""


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors that go beside a message unread."""

    descriptors: Sequence[int]


Buffers = Sequence[bytes | memoryview] | Files


MAX_PACKET_BYTES = 64 * 1024  # below the default socket buffer, so a packet is never refused for its size
MAX_BULK_BYTES = 8 * 2**30  # checked before allocation: a broken worker must not exhaust the daemon
MAX_DESCRIPTORS = 250  # a packet takes at most 253 (SCM_MAX_FD, unix(7))
_HEAD = struct.Struct("<I")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_SPILLED = "~json_bytes"
_NUM_FILES = "~files"
_TOGETHER = "~together"
FILES = "files"


class ChannelClosedError(Exception):
    """The other end is gone."""


def pack(message: Message, bulk: Buffers) -> tuple[bytes, list[int]]:
    """The packet, and the descriptors to send beside it (the caller closes them; files are duplicated)."""
    files: list[int] = []
    if isinstance(bulk, Files):
        files = [os.dup(descriptor) for descriptor in bulk.descriptors]
        bulk = ()
        message = {**message, _NUM_FILES: len(files)}
    text = _encode(message).encode()
    if _HEAD.size + len(text) + sum(len(part) for part in bulk) <= MAX_PACKET_BYTES:
        return b"".join([_HEAD.pack(len(text)), text, *bulk]), files
    if len(text) > MAX_PACKET_BYTES - _HEAD.size:
        bulk = [text, *bulk]
        text = json.dumps({_SPILLED: len(text)}).encode()
    descriptor = os.memfd_create("edgeagent-bulk")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        for part in bulk:
            file.write(part)
    return _HEAD.pack(len(text)) + text, [descriptor, *files]


def unpack(packet: bytes, descriptors: list[int]) -> Received:
    """The message and its bulk bytes (empty without). Closes the bulk's descriptor; files are the receiver's to close.

    Raises ChannelClosedError or ValueError for a packet that `pack` did not make; all descriptors are closed then.
    """
    try:
        return _unpack(packet, descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _unpack(packet: bytes, descriptors: list[int]) -> Received:
    if len(packet) < _HEAD.size:
        raise ChannelClosedError(f"a packet of {len(packet)} bytes is none")
    end = _HEAD.size + _HEAD.unpack_from(packet)[0]
    message, bulk = _object(packet[_HEAD.size : end]), packet[end:]
    if _SPILLED in message or (descriptors and _NUM_FILES not in message):
        bulk = _take_bulk(descriptors)
    if (spilled := message.get(_SPILLED)) is not None:
        message, bulk = _object(bulk[:spilled]), bulk[spilled:]
    if (count := message.pop(_NUM_FILES, 0)) != len(descriptors):
        raise ChannelClosedError(f"a packet came with {len(descriptors)} files instead of {count}")
    if descriptors:
        message[FILES] = list(descriptors)
    return message, bulk


def join(packets: Sequence[Received]) -> Received:
    """Several messages in one, for `parted`; files cannot be among their bulk."""
    return {_TOGETHER: [[message, len(bulk)] for message, bulk in packets]}, b"".join(bulk for _, bulk in packets)


def parted(message: Message, bulk: bytes) -> list[Received]:
    """The messages that were joined in this one; itself when it is a single one. Raises ChannelClosedError."""
    if _TOGETHER not in message:
        return [(message, bulk)]
    found, begin = [], 0
    for part, size in message[_TOGETHER]:
        found.append((part, bulk[begin : begin + size]))
        begin += size
    if begin != len(bulk):
        raise ChannelClosedError(f"messages of {begin} bytes of bulk came with {len(bulk)}")
    return found


def _take_bulk(descriptors: list[int]) -> bytes:
    if not descriptors:
        raise ChannelClosedError("a packet came without its bulk")
    size = os.fstat(descriptors[0]).st_size
    if size > MAX_BULK_BYTES:
        raise ChannelClosedError(f"a bulk of {size} bytes is over the limit")
    bulk = _read_all(descriptors[0], size)
    os.close(descriptors.pop(0))
    return bulk


def _object(packet: bytes) -> Message:
    message: Message = json.loads(packet)
    if not isinstance(message, dict):
        raise ChannelClosedError("a packet is not a JSON object")
    return message


def _read_all(descriptor: int, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    offset = 0
    while offset < size:
        if not (num_read := os.preadv(descriptor, [view[offset:]], offset)):
            raise ChannelClosedError(f"a bulk ended after {offset} of {size} bytes")
        offset += num_read
    return bytes(buffer)


HOLD_S = 0.04
"""How long an event may wait for the next ones: each packet costs its receiver a wake-up on a core that computes."""


class Channel:
    """The blocking end, used inside a worker. The daemon's end is `supervisor.Worker`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._held: list[Received] = []
        self._sent_s = self._looked_s = 0.0

    def send(self, message: Message, bulk: Buffers = ()) -> None:
        """At once, behind what was held back. Raises ChannelClosedError."""
        self.flush()
        self._send(message, bulk)

    def hold(self, message: Message, bulk: bytes = b"") -> None:
        """Send it with a later `flush_when_due`, `flush` or `send`."""
        self._held.append((message, bulk))

    def flush(self) -> None:
        """What was held back. Raises ChannelClosedError."""
        if not self._held:
            return
        message, bulk = join(self._held) if len(self._held) > 1 else self._held[0]
        self._held.clear()
        self._send(message, [bulk])

    def flush_when_due(self, now_s: float) -> None:
        """Call it after each step: what is held goes when after one more step as long as this it would be late."""
        step_s, self._looked_s = now_s - self._looked_s, now_s
        if self._held and now_s + step_s > self._sent_s + HOLD_S:
            self._sent_s = now_s
            self.flush()

    def _send(self, message: Message, bulk: Buffers) -> None:
        packet, descriptors = pack(message, bulk)
        try:
            if descriptors:
                socket.send_fds(self._socket, [packet], descriptors)
            else:
                self._socket.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosedError("the daemon is gone") from None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def receive(self, *, block: bool) -> Received | None:
        """The next message; None when there is none and `block` is false. Nothing is held back while it blocks."""
        if block:
            self.flush()
        elif not self._readable.poll(0):
            return None
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, MAX_PACKET_BYTES + 1, MAX_DESCRIPTORS)
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:
            raise ChannelClosedError("the daemon is gone")
        return unpack(packet, descriptors)
