"""CPU model, architecture, usable cores and clusters, instruction-set features, caches and clock, for x86 and arm64."""

from collections import Counter
from typing import NamedTuple

from edgeagent.core.hardware import Cpu
from edgeagent.resource.probes.caches import read_caches
from edgeagent.resource.probes.cgroups import group_folders
from edgeagent.resource.probes.cores import Core, clusters, marketing_name, read_cores
from edgeagent.resource.probes.sysroot import Sysroot


def read_cpu(root: Sysroot) -> Cpu:
    """The processor; `unknown` and a gap when /proc/cpuinfo does not say."""
    cores, quota = read_cores(root), read_quota_cores(root)
    if not cores:
        root.note("cpu", "absent: /proc/cpuinfo names no processor")
    caches = read_caches(root, cores[0].number if cores else 0)
    if not caches:
        root.note("cpu.caches", "absent: the kernel tells no cache sizes")
    max_mhz = max((core.max_mhz for core in cores if core.max_mhz), default=None)
    if max_mhz is None:
        root.note("cpu.max_mhz", "absent: cpufreq tells no clocks")
    num_cores = max(1, len(cores))
    return Cpu(
        model=_model(cores),
        arch=_arch(cores),
        cores=num_cores if quota is None else min(num_cores, max(1, int(quota))),
        features=_features(cores),
        max_mhz=max_mhz,
        clusters=clusters(cores),
        caches=caches,
        quota_cores=quota,
    )


def read_quota_cores(root: Sysroot) -> float | None:
    """CPU time a second, in cores, that the tightest group on the way up allows; None without a quota."""
    return min((quota for folder in group_folders(root, "cpu") if (quota := _quota(root, folder))), default=None)


def read_cache_bytes(root: Sysroot) -> int:
    """Size of the largest cache the first core sees; 0 when the kernel does not say."""
    return max(read_caches(root).values(), default=0)


class CpuTimes(NamedTuple):
    """Clock ticks of all cores since boot."""

    busy: int
    total: int


def read_cpu_times(root: Sysroot) -> CpuTimes | None:
    """Time spent; None when the kernel does not say. Waiting for a disk is not busy, being stolen from is."""
    first = (root.text("proc/stat") or "").partition("\n")[0].split()
    ticks = [int(word) for word in first[1:9] if word.isascii() and word.isdigit() and len(word) <= 20]
    if first[:1] != ["cpu"] or len(ticks) < 8:  # user nice system idle iowait irq softirq steal
        return None
    return CpuTimes(sum(ticks) - ticks[3] - ticks[4], sum(ticks))


def _model(cores: list[Core]) -> str:
    """One name, or `4x Cortex-A55 + 4x Cortex-A76` for cores that differ."""
    if cores and (name := marketing_name(cores[0].facts)):  # one name over both kinds of a hybrid
        return name
    names = Counter(core.name for core in cores)
    if len(names) <= 1:
        return next(iter(names), "unknown")
    return " + ".join(f"{count}x {name}" for name, count in sorted(names.items()))


def _arch(cores: list[Core]) -> str:
    first = cores[0].facts if cores else {}
    if "flags" in first:
        return "x86_64" if "lm" in first["flags"].split() else "i686"
    if "CPU architecture" in first:
        return "aarch64" if "asimd" in first.get("Features", "").split() else "armv7l"
    return "unknown"


def _features(cores: list[Core]) -> tuple[str, ...]:
    """What every core has: a thread may run on any of them."""
    sets = [set((core.facts.get("flags") or core.facts.get("Features") or "").split()) for core in cores]
    return tuple(sorted(flag for flag in set.intersection(*sets) if flag.isprintable())) if sets else ()


def _quota(root: Sysroot, folder: str) -> float | None:
    both = root.text(f"{folder}/cpu.max")
    if both is None:
        both = f"{root.text(f'{folder}/cpu.cfs_quota_us')} {root.text(f'{folder}/cpu.cfs_period_us')}"
    words = both.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 16 for word in words):
        return None  # `max`, or -1, is no quota
    quota, period = map(int, words)
    return quota / period if quota and period else None
