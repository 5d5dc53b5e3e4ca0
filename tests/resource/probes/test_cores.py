"""Cores, clusters, caches, features and CPU quotas over small trees."""

from collections.abc import Callable, Mapping
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.resource.probes.cores import Core, clusters, core_list
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.features import vector_extensions
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
CPU = "sys/devices/system/cpu"


def arm(*parts: str, features: str = "fp asimd asimddp") -> str:
    block = "processor\t: {n}\nFeatures\t: {f}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {p}\n"
    return "\n".join(block.format(n=n, f=features, p=part) for n, part in enumerate(parts))


def policy(first: int, cores: str, khz: int) -> dict[str, str]:
    folder = f"{CPU}/cpufreq/policy{first}"
    return {f"{folder}/related_cpus": f"{cores}\n", f"{folder}/cpuinfo_max_freq": f"{khz}\n"}


RK3588 = {
    "proc/cpuinfo": arm(*["0xd05"] * 4, *["0xd0b"] * 4),
    **policy(0, "0 1 2 3", 1800000),
    **policy(4, "4 5", 2352000),
    **policy(6, "6 7", 2304000),
}
"""The two pairs of Cortex-A76 have their own policies, whose clocks differ from chip to chip."""


def shape(root: Sysroot) -> list[tuple[str, tuple[int, ...], float | None]]:
    return [(c.name, c.cores, c.max_mhz) for c in read_cpu(root).clusters]


def test_rk3588_has_two_clusters_though_three_policies(tree: Tree) -> None:
    assert shape(tree(RK3588)) == [("Cortex-A55", (0, 1, 2, 3), 1800.0), ("Cortex-A76", (4, 5, 6, 7), 2352.0)]


def test_clusters_hold_only_cores_that_are_online_and_allowed(tree: Tree) -> None:
    root = tree(
        {**RK3588, f"{CPU}/online": "0-5\n", "proc/self/status": "Cpus_allowed:\tff\nCpus_allowed_list:\t3-7\n"}
    )
    assert shape(root) == [("Cortex-A55", (3,), 1800.0), ("Cortex-A76", (4, 5), 2352.0)]
    assert read_cpu(root).cores == 3


def test_affinity_that_meets_no_known_core_is_not_believed(tree: Tree) -> None:
    assert read_cpu(tree({**RK3588, "proc/self/status": "Cpus_allowed_list:\t99\n"})).cores == 8


def test_affinity_mask_counts_where_there_is_no_list(tree: Tree) -> None:
    root = tree({**RK3588, "proc/self/status": "Cpus_allowed:\t00000000,000000f0\n"})
    assert shape(root) == [("Cortex-A76", (4, 5, 6, 7), 2352.0)]


def test_cores_of_one_part_far_apart_in_clock_are_two_clusters(tree: Tree) -> None:
    root = tree({"proc/cpuinfo": arm("0xd41", "0xd41"), **policy(0, "0", 2400000), **policy(1, "1", 3000000)})
    assert shape(root) == [("Cortex-A78", (0,), 2400.0), ("Cortex-A78", (1,), 3000.0)]


def test_hybrid_intel_names_its_two_kinds_and_keeps_its_model(tree: Tree) -> None:
    block = "processor: {n}\nmodel name: 12th Gen Intel(R) Core(TM) i5-1240P\nflags: fpu lm avx2 avx_vnni\n"
    root = tree(
        {
            "proc/cpuinfo": "\n".join(block.format(n=n) for n in range(6)),
            "sys/devices/cpu_core/cpus": "0-1\n",
            "sys/devices/cpu_atom/cpus": "2-5\n",
            **{f"{CPU}/cpu{n}/cpufreq/cpuinfo_max_freq": "4400000" if n < 2 else "3300000" for n in range(6)},
        }
    )
    assert read_cpu(root).model == "12th Gen Intel(R) Core(TM) i5-1240P"
    assert shape(root) == [("E-core", (2, 3, 4, 5), 3300.0), ("P-core", (0, 1), 4400.0)]


def test_arm_part_number_goes_before_the_text_that_vendors_kernels_add(tree: Tree) -> None:
    text = "model name\t: ARMv8 Processor rev 1 (v8l)\n"
    blocks = arm("0xd42", "0xd42").replace("Features", f"{text}Features")
    assert read_cpu(tree({"proc/cpuinfo": blocks})).model == "Cortex-A78AE"


def test_core_of_an_unknown_maker_is_told_by_number(tree: Tree) -> None:
    text = arm("0x123").replace("0x41", "0x99")
    assert read_cpu(tree({"proc/cpuinfo": text})).model == "implementer 0x99 part 0x123"


def test_caches_are_those_of_the_first_usable_core(tree: Tree) -> None:
    sizes = {0: ("Data", 1, "32K"), 1: ("Instruction", 1, "64K"), 2: ("Unified", 2, "512K"), 3: ("Unified", 3, "3M")}
    files = {
        f"{CPU}/cpu4/cache/index{index}/{name}": f"{value}\n"
        for index, (kind, level, size) in sizes.items()
        for name, value in {"type": kind, "level": level, "size": size}.items()
    }
    root = tree({**RK3588, **files, "proc/self/status": "Cpus_allowed_list:\t4-7\n"})
    assert read_cpu(root).caches == {"l1d": 32 * 1024, "l1i": 64 * 1024, "l2": 512 * 1024, "l3": 3 * 2**20}
    assert "cpu.caches" not in root.gaps


def test_caches_that_are_not_told_are_a_gap(tree: Tree) -> None:
    root = tree(RK3588)
    assert read_cpu(root).caches == {}
    assert root.gaps["cpu.caches"].startswith("absent")


@pytest.mark.parametrize(
    ("limit", "quota", "cores"),
    [("150000 100000", 1.5, 1), ("50000 100000", 0.5, 1), ("320000 100000", 3.2, 3), ("max 100000", None, 8)],
)
def test_quota_is_exact_beside_the_cores_it_leaves(tree: Tree, limit: str, quota: float | None, cores: int) -> None:
    root = tree({**RK3588, "proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/cpu.max": f"{limit}\n"})
    cpu = read_cpu(root)
    assert (cpu.quota_cores, cpu.cores) == (quota, cores)


def test_tightest_quota_on_the_way_up_counts(tree: Tree) -> None:
    root = tree(
        {
            **RK3588,
            "proc/self/cgroup": "4:cpu,cpuacct:/a/b\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "125000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        }
    )
    assert read_cpu(root).quota_cores == 2.5


def test_features_that_matter_survive_and_have_peoples_names(tree: Tree) -> None:
    flags = "fp asimd asimddp i8mm bf16 sve"
    cpu = read_cpu(tree({"proc/cpuinfo": arm("0xd0c", features=flags)}))
    assert set(flags.split()) == set(cpu.features)
    assert vector_extensions(cpu.features) == ("NEON", "dotprod", "i8mm", "bf16", "SVE")
    assert vector_extensions(["fma", "amx_int8", "avx512_vnni", "nx"]) == ("FMA", "AVX-512 VNNI", "AMX-INT8")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["A", "B"]), st.none() | st.floats(100, 6000)), max_size=40))
def test_clusters_part_the_cores(kinds: list[tuple[str, float | None]]) -> None:
    cores = [Core(n, {}, name, mhz) for n, (name, mhz) in enumerate(kinds)]
    found = clusters(cores)
    assert sorted(chain.from_iterable(c.cores for c in found)) == list(range(len(cores)))
    assert all(cores[n].name == cluster.name for cluster in found for n in cluster.cores)


@settings(deadline=None)
@given(st.sets(st.integers(0, 300), min_size=1))
def test_core_list_reads_what_the_kernel_writes(numbers: set[int]) -> None:
    assert core_list(",".join(map(str, sorted(numbers)))) == numbers
    assert core_list(f"{min(numbers)}-{max(numbers)}") == set(range(min(numbers), max(numbers) + 1))


@pytest.mark.parametrize("text", ["", "x", "5-2", "-3", "0-999999999", "1-99999999999999", "1,,-"])
def test_core_list_of_nonsense_stays_small(text: str) -> None:
    assert len(core_list(text)) <= 8192
