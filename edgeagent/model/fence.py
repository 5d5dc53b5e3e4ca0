"""Bounds on a worker's memory from what it was forecast to take: far enough not to hinder it, near enough to stop one
that runs away. Pure.

Measured with llama-cpp-python 0.3.36 on x86-64 (`VmData`, `VmPeak` and `VmHWM` in /proc/PID/status, SmolLM2-135M Q4_1
and Gemma-3-270M Q4_K_M; contexts of 1024 and 4096, both cache types, 1 to 4 threads, chunks of 64 and 256, mapped and
read): private writable memory is what is forecast without mapped weights, and 92 to 104 MiB, a chunk's logits, and
8.2 MiB a thread, most of which is never touched. Address space is that, the file, 67 MiB of libraries, and 64 MiB a
thread that the allocator reserves, once 64 MiB more while it aligns them.
"""

from dataclasses import dataclass

from edgeagent.execution.confine import WorkerLimits

MIB = 2**20
UNTOUCHED_BYTES = 104 * MIB
LIBRARY_BYTES = 67 * MIB
THREAD_DATA_BYTES = 9 * MIB
THREAD_SPACE_BYTES = 64 * MIB
LOGIT_BYTES = 4
CACHE_COPIES = 3
"""Copies of one sequence's cache that its export or its exchange holds at once."""
MARGIN = 1.25
SLACK_BYTES = 96 * MIB


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker is to hold. `forecast_bytes` is its whole peak; `sequence_bytes` the cache of one sequence."""

    forecast_bytes: int
    file_bytes: int
    sequence_bytes: int
    vocab: int
    chunk_tokens: int
    threads: int
    is_mapped: bool
    num_contexts: int = 1
    """2 with a draft model: each reserves the logits of a chunk."""


def fence(load: Load, *, nice: int = 0) -> WorkerLimits:
    """The limits of a worker on the CPU: a GPU's driver maps as much address space as it likes."""
    mapped = load.file_bytes if load.is_mapped else 0
    own = round(MARGIN * max(0, load.forecast_bytes - mapped))
    buffers = load.num_contexts * LOGIT_BYTES * load.vocab * load.chunk_tokens + CACHE_COPIES * load.sequence_bytes
    data = own + buffers + UNTOUCHED_BYTES + THREAD_DATA_BYTES * load.threads + SLACK_BYTES
    space = data + load.file_bytes + LIBRARY_BYTES + THREAD_SPACE_BYTES * (load.threads + 2) + SLACK_BYTES
    return WorkerLimits(address_bytes=space, data_bytes=data, nice=nice)
