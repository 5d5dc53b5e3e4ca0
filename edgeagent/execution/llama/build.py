"""Which build of the engine computes here: its release, and a digest of the machine code that numbers pass through.

Two builds of one release need not give the same bits: another compiler or flag fuses other multiplications and
additions, and `tanhf` is another in another C library. llama.cpp tells its instruction sets, and nothing of these.

Whole files are no measure: asserts carry the path of the source, and pip builds in a folder of random name. Code only
depends on such a path's length (docs/adr/0036).
"""

import functools
import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.library import engine_version, llama

LIBRARY = re.compile(r"(lib(?:llama|ggml[\w-]*|m))\b.*\.so")
"""libllama.so, libggml-cpu-haswell.so, libm.so.6, libm-2.31.so."""
CHUNK_BYTES = 2**20

_ELF64 = b"\x7fELF\x02\x01"
"""64-bit, little endian: both architectures that the engines exist for."""
_TABLE = struct.Struct("<40xQ10xHH")
"""Of the file's header: offset of the section headers, the size of one, their number."""
_SECTION = struct.Struct("<4xIQ8xQQ")
"""Of a section's header: type, flags, offset, size."""
_BITS_OF_PROGRAM, _EXECUTABLE = 1, 4


@functools.cache
def engine_build() -> str:
    """`0.3.36+` and twelve hex digits. Raises EngineError when a library was replaced since it was loaded."""
    digest = hashlib.blake2b(digest_size=6)
    for name, path in sorted(_libraries()):
        digest.update(name.encode())
        try:
            with path.open("rb") as file:
                for piece in code(file):
                    digest.update(piece)
        except OSError as error:
            raise EngineError(f"{path}, which is in use, cannot be read ({error}); start again") from None
    return f"{engine_version()}+{digest.hexdigest()}"


def _libraries() -> set[tuple[str, Path]]:
    """Those that this process has loaded: name without version, and file."""
    llama()
    paths = {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = {path: LIBRARY.match(Path(path).name) for path in paths}
    return {(match[1], Path(path)) for path, match in found.items() if match}


def code(file: BinaryIO) -> Iterator[bytes]:
    """Executable sections of a library, in pieces; the whole of a file that is no 64-bit ELF."""
    head = file.read(_TABLE.size)
    is_elf = head.startswith(_ELF64) and len(head) == _TABLE.size
    ranges = _executable(file, head) if is_elf else [(0, file.seek(0, 2))]
    for offset, left in ranges:
        file.seek(offset)
        while left and (piece := file.read(min(left, CHUNK_BYTES))):
            yield piece
            left -= len(piece)


def _executable(file: BinaryIO, head: bytes) -> list[tuple[int, int]]:
    """Offset and bytes of each."""
    offset, size, count = _TABLE.unpack(head)
    file.seek(offset)
    headers = file.read(size * count)
    sections = (_SECTION.unpack_from(headers, i * size) for i in range(len(headers) // size))
    return [
        (begin, num_bytes)
        for kind, flags, begin, num_bytes in sections
        if kind == _BITS_OF_PROGRAM and flags & _EXECUTABLE
    ]
