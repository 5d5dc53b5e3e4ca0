"""Accelerators that the kernel shows. Seen is not usable: that takes a runtime, and a tiny model run on it."""

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.gpus import read_gpus
from edgeagent.resource.probes.npus import read_npus
from edgeagent.resource.probes.sysroot import Sysroot


def read_accelerators(root: Sysroot) -> tuple[Accelerator, ...]:
    """GPUs, NPUs and TPUs by what they show: driver files, render and device nodes, PCI and USB numbers."""
    return (*read_gpus(root), *read_npus(root))
