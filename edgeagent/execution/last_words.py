"""What a worker writes on stderr: passed on as it comes, and its end kept, for it may say why the worker died."""

import asyncio
import contextlib
import os
import re
import sys

KEPT_BYTES = 16 * 1024
NO_MEMORY = re.compile(
    rb"MemoryError|bad_alloc|[Mm]emory allocation (still )?failed|mem_buffer != NULL|failed to map segment"
    rb"|[Cc]annot allocate memory|(failed|unable) to allocate|Thread creation failed|pthread_create failed"
    rb"|SystemError: .*without (exception set|setting an exception)"
)
"""How Python, C++, OpenBLAS, ggml, the dynamic linker, the C library and OpenMP say it; the last is CPython's import
machinery, which loses the MemoryError it should pass on."""


class LastWords:
    """The reading end of a pipe. `writing_end` is the child's: close it here once the child has it."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._reading_end, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading_end, False)
        self._is_quiet = is_quiet
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading_end, self._read)

    @property
    def are_of_memory(self) -> bool:
        """Whether they tell of an allocation that failed."""
        return bool(NO_MEMORY.search(self._kept))

    def close(self) -> None:
        """Read what is left; nothing comes any more."""
        if self._reading_end >= 0:
            self._read()
        self._stop()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while words := os.read(self._reading_end, KEPT_BYTES):
                self._kept = (self._kept + words)[-KEPT_BYTES:]
                if not self._is_quiet:
                    sys.stderr.write(words.decode(errors="replace"))
            self._stop()

    def _stop(self) -> None:
        if self._reading_end >= 0:
            self._loop.remove_reader(self._reading_end)
            os.close(self._reading_end)
            self._reading_end = -1
