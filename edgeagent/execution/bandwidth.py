"""Measures how fast memory can be read: `python -m edgeagent.execution.bandwidth BYTES SECONDS THREADS...`.

A process of its own, so that its buffer leaves with it. Prints one JSON object, threads to bytes a second (the best
pass). The reading is libc's `memchr` for a byte that is not there: vectorised on every platform, it writes nothing and
computes next to nothing, and ctypes releases the interpreter lock around it.
"""

import ctypes
import json
import mmap
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

FILL, ABSENT = 1, 0


def read_bandwidth(num_bytes: int, seconds: float, threads: int) -> float:
    """Bytes a second of the fastest pass over a buffer that `threads` threads read in equal parts."""
    libc = ctypes.CDLL(None)
    libc.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.memchr.restype = ctypes.c_void_p
    part = num_bytes // threads
    with mmap.mmap(-1, num_bytes) as memory:
        buffer = (ctypes.c_char * num_bytes).from_buffer(memory)
        address = ctypes.addressof(buffer)
        ctypes.memset(address, FILL, num_bytes)  # untouched pages would all be the kernel's one zero page
        starts = [address + i * part for i in range(threads)]
        best_s = _best_pass_s(lambda start: libc.memchr(start, ABSENT, part), starts, seconds)
        del buffer  # a mapping cannot be closed while something points into it
    return part * threads / best_s


def _best_pass_s(read: Callable[[int], object], starts: list[int], seconds: float) -> float:
    best = float("inf")
    with ThreadPoolExecutor(len(starts)) as pool:
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            list(pool.map(read, starts))
            best = min(best, time.perf_counter() - started)
    return best


def main(arguments: list[str]) -> None:
    """`BYTES SECONDS THREADS...`"""
    num_bytes, seconds = int(arguments[0]), float(arguments[1])
    rates = {threads: read_bandwidth(num_bytes, seconds, int(threads)) for threads in arguments[2:]}
    sys.stdout.write(json.dumps(rates))


if __name__ == "__main__":
    main(sys.argv[1:])
