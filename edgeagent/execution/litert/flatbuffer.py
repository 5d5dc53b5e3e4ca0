"""Writes a flatbuffer: as much of the format as a small model needs (flatbuffers.dev/internals).

A table is a dict from field number to value, a vector a list, a string a str. Numbers are `Scalar`s, whose format is
that of `struct`. Children are laid after their parents: offsets in a flatbuffer point forward.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 16
"""Every object starts at a multiple of it: more than most need, and enough for tensors."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number, `<format>` as in `struct`."""

    format: str
    value: int | float


@dataclass(frozen=True, slots=True)
class Numbers:
    """A vector of numbers of one format."""

    format: str
    values: Sequence[int | float]


Node = Scalar | Numbers | bytes | str | list["Node"] | Mapping[int, "Node"]


def write(root: Mapping[int, Node], identifier: bytes) -> bytes:
    """The buffer whose root table is `root`; `identifier` has four bytes."""
    buffer = bytearray(8)
    buffer[4:8] = identifier
    struct.pack_into("<I", buffer, 0, _table(buffer, root))
    return bytes(buffer)


def _lay(buffer: bytearray, node: Node) -> int:
    """Append an object; its position."""
    match node:
        case str():
            return _vector(buffer, len(node.encode()), node.encode() + b"\0")
        case bytes():
            return _vector(buffer, len(node), node)
        case Numbers():
            return _vector(buffer, len(node.values), struct.pack(f"<{len(node.values)}{node.format}", *node.values))
        case Mapping():
            return _table(buffer, node)
        case list():
            return _offsets(buffer, node)
    raise TypeError(f"{type(node).__name__} has no place of its own in a flatbuffer")


def _vector(buffer: bytearray, count: int, content: bytes) -> int:
    _pad(buffer, ahead=4)  # so that the content is aligned, behind its count
    position = len(buffer)
    buffer += struct.pack("<I", count) + content
    return position


def _offsets(buffer: bytearray, children: Sequence[Node]) -> int:
    position = _vector(buffer, len(children), bytes(4 * len(children)))
    for i, child in enumerate(children):
        _point(buffer, position + 4 + 4 * i, _lay(buffer, child))
    return position


def _table(buffer: bytearray, fields: Mapping[int, Node]) -> int:
    """The vtable (field number to place), the table with its numbers, then what its other fields point to."""
    places, size = _places(fields)
    _pad(buffer)
    vtable = len(buffer)
    slots = [places.get(number, 0) for number in range(max(fields, default=-1) + 1)]
    buffer += struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), size, *slots)
    _pad(buffer)
    table = len(buffer)
    buffer += struct.pack("<i", table - vtable) + bytes(size - 4)
    for number, node in fields.items():
        place = table + places[number]
        if isinstance(node, Scalar):
            struct.pack_into(f"<{node.format}", buffer, place, node.value)
        else:
            _point(buffer, place, _lay(buffer, node))
    return table


def _places(fields: Mapping[int, Node]) -> tuple[dict[int, int], int]:
    """Where in its table each field lies, and the table's size."""
    places, size = {}, 4
    for number, node in fields.items():
        width = struct.calcsize(node.format) if isinstance(node, Scalar) else 4
        size += -size % width
        places[number] = size
        size += width
    return places, size


def _point(buffer: bytearray, place: int, target: int) -> None:
    struct.pack_into("<I", buffer, place, target - place)


def _pad(buffer: bytearray, ahead: int = 0) -> None:
    buffer += bytes(-(len(buffer) + ahead) % ALIGNMENT)
