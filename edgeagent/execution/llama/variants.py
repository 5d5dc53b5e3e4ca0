"""Jobs of a worker that make or measure files, instead of answering with a loaded model."""

from collections.abc import Callable
from pathlib import Path

from edgeagent.execution.llama import influence, invariance, perplexity, prune, quantize
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.slice import slice_file
from edgeagent.execution.worker import Request

STATUS = Path("/proc/self/status")


def peak_memory(request: Request) -> Steps:
    """Op `peak_memory`: the most resident memory this process ever had (VmHWM, proc(5)), in bytes."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    request.reply(peak_rss_bytes=int(lines["VmHWM"].split()[0]) * 1024)
    yield from ()


JOBS: dict[str, Callable[[Request], Steps]] = {
    "kinds": quantize.list_kinds,
    "quantize": quantize.make,
    "prune": prune.prune,
    "slice": slice_file,
    "influence": influence.influence,
    "perplexity": perplexity.perplexity,
    "peak_memory": peak_memory,
    "invariance": invariance.invariance,
}
