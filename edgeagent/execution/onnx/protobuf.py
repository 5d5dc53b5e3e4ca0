"""Protobuf without a schema: a message as the list of its fields, and the bytes of some.

The encoding is that of protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Field:
    """One field: an int for VARINT, else its bytes (a message, a text, packed numbers, a fixed number)."""

    number: int
    value: int | memoryview

    @property
    def content(self) -> memoryview:
        """Raises ValueError for a number."""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number, not bytes")
        return self.value

    @property
    def text(self) -> str:
        """Raises ValueError for a number, and for what is not UTF-8."""
        return str(self.content, "utf-8")


def read(message: bytes | memoryview) -> Iterator[Field]:
    """All fields in order; bytes are views into `message`. Raises ValueError for what is no message."""
    view, position = memoryview(message), 0
    while position < len(view):
        key, position = _read_varint(view, position)
        field, wire = key >> 3, key & 7
        size = _FIXED_BYTES.get(wire, 0)
        if wire in (VARINT, BYTES):
            size, position = _read_varint(view, position)
        elif not size:
            raise ValueError(f"wire type {wire} before byte {position}")
        if wire == VARINT:
            yield Field(field, size)
            continue
        if position + size > len(view):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(view)}")
        yield Field(field, view[position : position + size])
        position += size


def number(field: int, value: int) -> bytes:
    """A field with a number that is not negative."""
    return _varint(field << 3 | VARINT) + _varint(value)


def text(field: int, value: bytes | str) -> bytes:
    """A field with a text, a message or other bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | BYTES) + _varint(len(raw)) + raw


def float32(field: int, value: float) -> bytes:
    return _varint(field << 3 | FIXED32) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * MAX_VARINT_BYTES, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a torn number at byte {position}")
