"""CPU model, architecture, usable cores, instruction-set features and top clock, for x86 and arm64."""

from collections import Counter
from typing import NamedTuple

from edgeagent.core.hardware import Cpu
from edgeagent.resource.probes.cgroups import group_folders
from edgeagent.resource.probes.sysroot import Sysroot

ARM_LTD = 0x41
ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4B: "Cortex-A78C",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}
"""MIDR part numbers of Arm Ltd. (Linux, `arch/arm64/include/asm/cputype.h`)."""

Block = dict[str, str]


def read_cpu(root: Sysroot) -> Cpu:
    """The processor; `unknown` and a gap when /proc/cpuinfo does not say."""
    blocks = _cores(root)
    if not blocks:
        root.note("cpu", "absent: /proc/cpuinfo names no processor")
    return Cpu(
        model=_model(blocks),
        arch=_arch(blocks),
        cores=min([max(1, len(blocks)), *_core_limits(root)]),
        features=_features(blocks),
        max_mhz=_max_mhz(root),
    )


def _cores(root: Sysroot) -> list[Block]:
    blocks: list[Block] = []
    for text in (root.text("proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        block = {key.strip(): value.strip() for key, separator, value in pairs if separator}
        if "processor" in block:
            blocks.append(block)
    return blocks


def _model(blocks: list[Block]) -> str:
    """One name, or `4x Cortex-A55 + 4x Cortex-A76` for cores that differ."""
    names = Counter(_core_name(block) for block in blocks)
    if len(names) <= 1:
        return next(iter(names), "unknown")
    return " + ".join(f"{count}x {name}" for name, count in sorted(names.items()))


def _core_name(block: Block) -> str:
    if name := block.get("model name"):
        return name
    implementer, part = _hex(block.get("CPU implementer")), _hex(block.get("CPU part"))
    if implementer is None or part is None:
        return "unknown"
    known = ARM_PARTS.get(part) if implementer == ARM_LTD else None
    return known or f"implementer {implementer:#04x} part {part:#05x}"


def _hex(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None


def _arch(blocks: list[Block]) -> str:
    first = blocks[0] if blocks else {}
    if "flags" in first:
        return "x86_64" if "lm" in first["flags"].split() else "i686"
    if "CPU architecture" in first:
        return "aarch64" if "asimd" in first.get("Features", "").split() else "armv7l"
    return "unknown"


def _features(blocks: list[Block]) -> tuple[str, ...]:
    """What every core has: a thread may run on any of them."""
    sets = [set((block.get("flags") or block.get("Features") or "").split()) for block in blocks]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _core_limits(root: Sysroot) -> list[int]:
    """Cores left by the process's affinity and by CPU quotas."""
    limits = [quota for folder in group_folders(root, "cpu") if (quota := _quota(root, folder))]
    for line in (root.text("proc/self/status") or "").splitlines():
        if line.startswith("Cpus_allowed:"):
            mask = _hex(line.partition(":")[2].strip().replace(",", "")) or 0
            limits += [mask.bit_count()] if mask else []
    return limits


def _quota(root: Sysroot, folder: str) -> int | None:
    """Whole cores that a group's quota amounts to, at least one; None without a quota."""
    both = root.text(f"{folder}/cpu.max")
    if both is None:
        both = f"{root.text(f'{folder}/cpu.cfs_quota_us')} {root.text(f'{folder}/cpu.cfs_period_us')}"
    quota, _, period = both.partition(" ")
    if not (quota.isascii() and quota.isdigit() and period.isascii() and period.isdigit() and int(period)):
        return None
    return max(1, int(quota) // int(period))


def _max_mhz(root: Sysroot) -> float | None:
    """The highest clock any core offers (cpufreq counts in kHz)."""
    base = "sys/devices/system/cpu"
    cores = [name for name in root.names(base) if name.startswith("cpu") and name[3:].isdigit()]
    clocks = [root.number(f"{base}/{core}/cpufreq/cpuinfo_max_freq") for core in cores]
    return max((khz / 1000 for khz in clocks if khz), default=None)


def read_cache_bytes(root: Sysroot) -> int:
    """Size of the largest cache the first core sees; 0 when the kernel does not say."""
    base = "sys/devices/system/cpu/cpu0/cache"
    texts = [root.text(f"{base}/{index}/size") or "" for index in root.names(base) if index.startswith("index")]
    return max((int(t[:-1]) * 1024 for t in texts if t.endswith("K") and t[:-1].isdigit()), default=0)


class CpuTimes(NamedTuple):
    """Clock ticks of all cores since boot."""

    busy: int
    total: int


def read_cpu_times(root: Sysroot) -> CpuTimes | None:
    """Time spent; None when the kernel does not say. Waiting for a disk is not busy, being stolen from is."""
    first = (root.text("proc/stat") or "").partition("\n")[0].split()
    ticks = [int(word) for word in first[1:9] if word.isascii() and word.isdigit()]
    if first[:1] != ["cpu"] or len(ticks) < 8:  # user nice system idle iowait irq softirq steal
        return None
    return CpuTimes(sum(ticks) - ticks[3] - ticks[4], sum(ticks))
