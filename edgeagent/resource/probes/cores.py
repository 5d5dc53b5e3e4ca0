"""The cores this process may run on, each with what the kernel tells of it, and the clusters they form."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from edgeagent.core.hardware import CpuCluster
from edgeagent.resource.probes.midr import core_name
from edgeagent.resource.probes.sysroot import Sysroot

BASE = "sys/devices/system/cpu"
MAX_CORES = 8192
"""Linux's largest NR_CPUS; what a file says beyond it is not believed."""
SAME_KIND_FRACTION = 0.9
"""Cores of one design whose clocks are this close are one cluster: turbo bins and process variation differ by a few
percent, "gold" and "prime" cores of a phone's chip by more."""
HYBRID = {"P-core": "sys/devices/cpu_core/cpus", "E-core": "sys/devices/cpu_atom/cpus"}
"""Where the kernel lists the two kinds of cores of a hybrid Intel processor (perf's PMUs)."""


@dataclass(frozen=True, slots=True)
class Core:
    """`facts`: its block of /proc/cpuinfo. `max_mhz`: the highest clock cpufreq offers."""

    number: int
    facts: dict[str, str]
    name: str
    max_mhz: float | None


def read_cores(root: Sysroot) -> list[Core]:
    """Online cores in this process's affinity; all that /proc/cpuinfo names when those two do not meet."""
    blocks = _blocks(root)
    usable = _allowed(root, blocks) or set(blocks)
    clocks = _clocks(root)
    kinds = {number: kind for kind, file in HYBRID.items() for number in core_list(root.text(file) or "")}
    return [
        Core(number, blocks[number], kinds.get(number) or _name(blocks[number]), clocks.get(number))
        for number in sorted(usable)
    ]


def clusters(cores: Iterable[Core]) -> tuple[CpuCluster, ...]:
    """Cores of one kind together, the slowest kind first."""
    found: list[CpuCluster] = []
    for name, group in groupby(sorted(cores, key=lambda c: (c.name, -(c.max_mhz or 0))), key=lambda c: c.name):
        for members in _by_clock(list(group)):
            numbers = tuple(sorted(core.number for core in members))
            found.append(CpuCluster(name=name, cores=numbers, max_mhz=members[0].max_mhz))
    return tuple(sorted(found, key=lambda cluster: (cluster.max_mhz or 0, cluster.cores)))


def marketing_name(block: dict[str, str]) -> str | None:
    """`Intel(R) N100`: what x86 says of the whole processor."""
    name = "" if "CPU implementer" in block else block.get("model name", "")
    return "".join(c for c in name if c.isprintable())[:80] or None


def core_list(text: str) -> set[int]:
    """`0-3,6` as numbers; what is not such a list is nothing."""
    numbers: set[int] = set()
    for part in text.strip().split(",")[:MAX_CORES]:
        first, _, last = part.partition("-")
        low, high = _digits(first), _digits(last or first)
        if low is not None and high is not None:
            numbers.update(range(low, min(high, MAX_CORES - 1) + 1))
    return numbers


def _by_clock(members: list[Core]) -> Iterator[list[Core]]:
    """Splits cores of one design, fastest first, where the clock falls by more than a variation."""
    start = 0
    for end in range(1, len(members) + 1):
        top = members[start].max_mhz or 0
        if end == len(members) or (members[end].max_mhz or 0) < SAME_KIND_FRACTION * top:
            yield members[start:end]
            start = end


def _blocks(root: Sysroot) -> dict[int, dict[str, str]]:
    blocks: dict[int, dict[str, str]] = {}
    for text in (root.text("proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        block = {key.strip(): value.strip() for key, separator, value in pairs if separator}
        number = _digits(block.get("processor", ""))
        if number is not None and number < MAX_CORES:
            blocks[number] = block
    return blocks


def _allowed(root: Sysroot, known: Iterable[int]) -> set[int]:
    """Affinity (which control groups' cpusets narrow too) and what is online, each where it is told."""
    allowed = set(known)
    status = dict(line.split(":", 1) for line in root.lines("proc/self/status") if ":" in line)
    for numbers in (_affinity(status), core_list(root.text(f"{BASE}/online") or "")):
        allowed &= numbers or allowed
    return allowed


def _affinity(status: dict[str, str]) -> set[int]:
    if listed := core_list(status.get("Cpus_allowed_list", "")):
        return listed
    try:
        mask = int(status.get("Cpus_allowed", "").strip().replace(",", ""), 16)
    except ValueError:
        return set()
    return {number for number in range(MAX_CORES) if mask >> number & 1} if mask > 0 else set()


def _clocks(root: Sysroot) -> dict[int, float]:
    """Top clocks in MHz (cpufreq counts in kHz), from each core's folder or from the policies over several cores."""
    clocks: dict[int, float] = {}
    for policy in [name for name in root.names(f"{BASE}/cpufreq") if name.startswith("policy")]:
        khz = root.number(f"{BASE}/cpufreq/{policy}/cpuinfo_max_freq")
        members = (root.text(f"{BASE}/cpufreq/{policy}/related_cpus") or "").replace(" ", ",")
        clocks |= dict.fromkeys(core_list(members), khz / 1000) if khz and khz > 0 else {}
    for folder in [name for name in root.names(BASE) if name.startswith("cpu")]:
        number = _digits(folder[3:])
        khz = root.number(f"{BASE}/{folder}/cpufreq/cpuinfo_max_freq") if number is not None else None
        if number is not None and khz and khz > 0:
            clocks[number] = khz / 1000
    return clocks


def _name(block: dict[str, str]) -> str:
    """By number before by text: some vendors' Arm kernels say `ARMv8 Processor rev 1 (v8l)` of every core."""
    try:
        return core_name(int(block["CPU implementer"], 16), int(block["CPU part"], 16))
    except (KeyError, ValueError):
        return marketing_name(block) or "unknown"


def _digits(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
