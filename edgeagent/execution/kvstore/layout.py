"""The bytes of one file of KV rows. Pure: what a reader may believe is decided here.

    rows        num_cells x sum(planes) bytes, plane after plane; at offset 0, as in memory
    key         UTF-8
    path        i64 a symbol, from position 0 to the last cell
    planes      u32 a plane: bytes of one row
    checks      u32 a started MiB of rows: its CRC-32
    tail        magic, version, first, lengths, digest of all from `key` to the lengths

Numbers are little endian. What describes the rows follows them, so that a file that was cut short has no tail, and
that rows are handed out as they lie. The name of a file is a digest of the key, the planes and the path.

CRC-32, a MiB at a time: the damage to find is a torn or rotten block, not an attacker (who can write here can also
write a digest), and one in 2^32 damaged MiB passes. It is the fastest sum in the standard library that finds such
damage: 3.8 GB/s on one x86 core with SHA instructions, where SHA-256 made 1.6 and BLAKE2b 0.8 (zlib 1.2.13, OpenSSL
3.0.19), and 0.9 GB/s on a Graviton2 (github.com/ebiggers/libdeflate/pull/76), while the cores of Raspberry Pis before
the 5 have no SHA instructions at all (ThomasKaiser/sbc-bench, ARMv8-Crypto-Extensions.md).
"""

import hashlib
import re
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.execution.kvstore.tree import Path

MAGIC = b"EDGEKV\r\n"
VERSION = 1
CHECKED_BYTES = 2**20
"""Bytes of rows under one checksum."""
MAX_PATH = 2**20
MAX_PLANES = 4096
MAX_KEY_BYTES = 4096
MAX_ROWS_BYTES = 2**32
NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-[0-9a-f]{32}\.kv")
"""First cell, cells of the path as their distance from 2^32 - 1 (of equal beginnings the longest sorts first)."""

_TAIL = struct.Struct("<8sIIIIII32s")
TAIL_BYTES = _TAIL.size
_DIGEST_BYTES = 32
_PLANE = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its rows."""

    key: str
    path: Path
    first: int
    planes: tuple[int, ...]
    checks: tuple[int, ...]

    @property
    def num_cells(self) -> int:
        return len(self.path) - self.first

    @property
    def rows_bytes(self) -> int:
        return self.num_cells * sum(self.planes)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the tail says: how long the parts before it are."""

    first: int
    num_symbols: int
    num_planes: int
    key_bytes: int
    num_checks: int

    @property
    def description_bytes(self) -> int:
        return self.key_bytes + 8 * self.num_symbols + _PLANE.size * (self.num_planes + self.num_checks)


def file_name(header: Header) -> str:
    """Says what the rows are of: key, planes, and the path from position 0; not which bytes they are."""
    key = hashlib.blake2b(header.key.encode() + _numbers(header.planes)).digest()
    digest = hashlib.blake2b(_symbols(header.path), digest_size=16, key=key).hexdigest()
    return f"{header.first:08x}-{2**32 - 1 - len(header.path):08x}-{digest}.kv"


def pack(header: Header) -> bytes:
    """What follows the rows."""
    key = header.key.encode()
    description = key + _symbols(header.path) + _numbers(header.planes) + _numbers(header.checks)
    sizes = (header.first, len(header.path), len(header.planes), len(key), len(header.checks))
    tail = _TAIL.pack(MAGIC, VERSION, *sizes, bytes(_DIGEST_BYTES))
    return description + tail[:-_DIGEST_BYTES] + _digest(description, tail)


def file_bytes(header: Header) -> int:
    """What a file of these rows takes."""
    sizes = Sizes(
        header.first, len(header.path), len(header.planes), len(header.key.encode()), num_checks(header.rows_bytes)
    )
    return header.rows_bytes + sizes.description_bytes + TAIL_BYTES


def parse_tail(tail: bytes, file_bytes: int) -> Sizes | None:
    """The last TAIL_BYTES of a file of `file_bytes`; None when it is not ours, or claims what it has no room for."""
    if len(tail) != TAIL_BYTES:
        return None
    magic, version, first, num_symbols, num_planes, key_bytes, num_checks, _ = _TAIL.unpack(tail)
    sizes = Sizes(first, num_symbols, num_planes, key_bytes, num_checks)
    if (magic, version) != (MAGIC, VERSION) or not first < num_symbols <= MAX_PATH:
        return None
    if not 0 < num_planes <= MAX_PLANES or key_bytes > MAX_KEY_BYTES or num_checks > MAX_ROWS_BYTES // CHECKED_BYTES:
        return None
    return sizes if sizes.description_bytes + TAIL_BYTES <= file_bytes else None


def parse(sizes: Sizes, description: bytes, tail: bytes, file_bytes: int) -> Header | None:
    """The whole header; None unless it is exactly what `pack` made for a file of this size."""
    if len(description) != sizes.description_bytes or _digest(description, tail) != tail[-_DIGEST_BYTES:]:
        return None
    end = sizes.key_bytes + 8 * sizes.num_symbols
    path: Path = array("q", description[sizes.key_bytes : end])
    if sys.byteorder == "big":
        path.byteswap()
    numbers = struct.unpack(f"<{sizes.num_planes + sizes.num_checks}I", description[end:])
    planes, checks = numbers[: sizes.num_planes], numbers[sizes.num_planes :]
    header = Header(description[: sizes.key_bytes].decode(errors="replace"), path, sizes.first, planes, checks)
    is_whole = header.rows_bytes + sizes.description_bytes + TAIL_BYTES == file_bytes
    return header if is_whole and len(checks) == num_checks(header.rows_bytes) else None


def num_checks(rows_bytes: int) -> int:
    return -(-rows_bytes // CHECKED_BYTES)


def _digest(description: bytes, tail: bytes) -> bytes:
    state = hashlib.blake2b(description, digest_size=_DIGEST_BYTES)
    state.update(tail[:-_DIGEST_BYTES])
    return state.digest()


def _numbers(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _symbols(path: Path) -> bytes:
    if sys.byteorder == "little":
        return path.tobytes()
    swapped = array("q", path)
    swapped.byteswap()
    return swapped.tobytes()
