"""A bounded cursor over a GGUF header: never reads past the file, never allocates what a length field asks for."""

import struct
from typing import BinaryIO

from edgeagent.core.errors import ModelFileError

MAX_HEADER_BYTES = 64 * 2**20
"""Ten times the header of a 262,144-token vocabulary (Gemma 3: 6.5 MB). Bounds the time a hostile file can take."""
MAX_STRINGS = 3 * 2**18
"""In arrays, over the whole header: that vocabulary and twice as many merges. Bounds time: stepping over one string
costs some 90 ns on the x86 machine this was written on (tools/gguf_fuzz.py)."""
MAX_TEXT_BYTES = 8 * 2**20
"""Strings that are kept, together; one of 1 MB is the longest that is allowed. Bounds memory."""
BLOCK_BYTES = 256 * 1024

Scalar = int | float | bool | str

_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
SCALARS = {number: struct.Struct(code) for number, code in _FORMATS.items()}
"""GGUF value type to layout; 8 is a string, 9 an array (ggml docs/gguf.md)."""
BOOL, STRING, ARRAY = 7, 8, 9
_LENGTH = SCALARS[10]


class HeaderIncompleteError(ModelFileError):
    """So far the header is sound; the part of the file that is here ends inside it."""


class Cursor:
    """Reads little-endian values in order. Raises ModelFileError for anything out of bounds.

    `total_bytes` is what the file will have when it is whole, if it is still growing.
    """

    def __init__(self, file: BinaryIO, label: str, total_bytes: int | None = None) -> None:
        self._file = file
        self._label = label
        here = file.seek(0, 2)
        self.file_bytes = here if total_bytes is None else max(here, total_bytes)
        self._is_growing = here < self.file_bytes
        self._limit = min(self.file_bytes, MAX_HEADER_BYTES)
        self._strings_left = MAX_STRINGS
        self._text_left = MAX_TEXT_BYTES
        self._buffer = b""
        self._start = 0  # offset in the file of the buffer's first byte
        self.offset = 0

    def error(self, reason: str) -> ModelFileError:
        return ModelFileError(f"{self._label} is not a sound GGUF file: {reason}; remove it and fetch it again")

    def scalar(self, value_type: int) -> int | float | bool:
        layout = SCALARS[value_type]
        value: int | float = layout.unpack(self.take(layout.size))[0]
        if value_type != BOOL:
            return value
        if value not in (0, 1):
            raise self.error(f"a truth value of {value} before byte {self.offset}")
        return bool(value)

    def integer(self, value_type: int) -> int:
        return int(self.scalar(value_type))

    def scalars(self, value_type: int, count: int) -> tuple[int | float, ...]:
        """`count` numbers at once; the caller has capped `count`, and checks truth values itself."""
        code = SCALARS[value_type].format[1:]
        return struct.unpack(f"<{count}{code}", self.take(count * SCALARS[value_type].size))

    def string(self, max_bytes: int) -> str:
        size = self.integer(10)
        if size > max_bytes:
            raise self.error(f"a string of {size} bytes at byte {self.offset}, where {max_bytes} are allowed")
        self._text_left -= size
        if self._text_left < 0:
            raise self.error(f"its strings are longer than {MAX_TEXT_BYTES} bytes together")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.error(f"a string that is not UTF-8 before byte {self.offset}") from None

    def take(self, size: int) -> bytes:
        """The next `size` bytes; the caller has capped `size`."""
        self._check(size)
        position = self.offset - self._start
        if position + size > len(self._buffer):
            self._fill(size)
            position = 0
        self.offset += size
        return self._buffer[position : position + size]

    def skip(self, size: int) -> None:
        self._check(size)
        self.offset += size

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings without making them: vocabularies are most of a header."""
        self._check(count * _LENGTH.size)
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.error(f"its arrays hold more than {MAX_STRINGS} strings")
        while count:
            if self.offset + _LENGTH.size > self._start + len(self._buffer):
                self._check(_LENGTH.size)
                self._fill(_LENGTH.size)
            count -= self._skip_buffered(count)
            self._check(0)

    def _skip_buffered(self, count: int) -> int:
        """Step over as many of `count` strings as begin in the buffer; their number."""
        position, read, buffer = self.offset - self._start, _LENGTH.unpack_from, self._buffer
        num_skipped = 0
        try:
            for num_skipped in range(count):  # noqa: B007  (the number of those behind us when a length lies outside)
                position += 8 + read(buffer, position)[0]
            num_skipped = count
        except (struct.error, OverflowError, IndexError):  # behind the buffer's end, or behind any end
            pass
        self.offset = self._start + position
        return num_skipped

    def _check(self, size: int) -> None:
        if self.offset + size <= self._limit:
            return
        if self.offset + size > self.file_bytes:
            raise self.error(f"it ends at byte {self.file_bytes}, inside its header")
        raise self.error(f"its header is longer than {MAX_HEADER_BYTES} bytes")

    def _fill(self, size: int) -> None:
        """Buffer at least `size` bytes from the offset on; `_check` has allowed them."""
        self._file.seek(self.offset)
        self._start = self.offset
        self._buffer = self._file.read(min(max(size, BLOCK_BYTES), self._limit - self.offset))
        if len(self._buffer) >= size:
            return
        if self._is_growing:
            raise HeaderIncompleteError(f"{self._label} ends inside its header")
        raise self.error("it became shorter while it was read")
