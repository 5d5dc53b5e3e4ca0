"""The profile for people: every fact has a line, units and all."""

from edgeagent.cli.machine import describe, tell_invariance
from edgeagent.core.hardware import (
    Accelerator,
    Capability,
    Cpu,
    CpuCluster,
    EngineFacts,
    KernelRates,
    Kernels,
    MemoryFacts,
    Power,
    Profile,
    Storage,
    Thermal,
    Verdict,
)
from edgeagent.core.invariance import Invariance

GIB = 2**30
CLUSTERS = (
    CpuCluster(name="Cortex-A55", cores=(0, 1, 2, 3), max_mhz=1800),
    CpuCluster(name="Cortex-A76", cores=(4, 6, 7), max_mhz=2400),
)
ROCK = Profile(
    fingerprint="f" * 64,
    board="Radxa ROCK 5B",
    cpu=Cpu(
        model="4x Cortex-A55 + 3x Cortex-A76",
        arch="aarch64",
        cores=6,
        features=("asimd", "asimddp", "crc32"),
        max_mhz=2400,
        clusters=CLUSTERS,
        caches={"l1d": 32 * 1024, "l2": 512 * 1024, "l3": 3 * 2**20},
        quota_cores=6.5,
    ),
    memory=MemoryFacts(
        total_bytes=16 * GIB,
        available_bytes=12 * GIB,
        bandwidth_bytes_s=22e9,
        swap_total_bytes=GIB,
        swap_free_bytes=GIB // 2,
        pressure_percent=1.25,
    ),
    accelerators=(
        Accelerator(
            kind="npu",
            name="Rockchip NPU (fdab0000.npu)",
            runtime="rknn",
            usable=False,
            why="none",
            driver="RKNPU",
        ),
        Accelerator(kind="gpu", name="amdgpu GPU", runtime="vulkan", usable=True, why="tried", memory_bytes=8 * GIB),
    ),
    thermal=Thermal(zones={"soc-thermal": 48.0}, throttled=False, throttle_c=75.0),
    power=Power(
        sources={"BAT0": "Battery, discharging"},
        battery_percent=64,
        draw_w={"VDD_IN": 5.064},
        mode="25W",
        modes=("15W", "25W", "MAXN_SUPER"),
    ),
    storage=Storage(path="/var/lib/edgeagent", free_bytes=100 * GIB, kind="nvme", read_bytes_s=2.5e9),
    engines=(
        EngineFacts(
            name="llama",
            version="1",
            usable=True,
            probe=Verdict(verdict="ok", reason="it spoke"),
            capabilities=(
                Capability(name="mlock", verdict="ok", reason="it ran", at="2026-11-24"),
                Capability(name="kv_q4_0", verdict="crashed", reason="signal 11", at="2026-11-24"),
            ),
        ),
    ),
    kernels=Kernels(
        chunk_tokens=64,
        rates=(
            KernelRates(type="Q4_0", threads=4, token_elem_s=2e10, chunk_elem_s=9e10),
            KernelRates(type="Q8_0", threads=4, token_elem_s=1.1e10, chunk_elem_s=8e10),
            KernelRates(type="Q4_0", threads=2, token_elem_s=1.2e10, chunk_elem_s=5e10),
        ),
        overheads=(),
        steady_fraction=0.8,
    ),
    gaps={"cpu.max_mhz": "absent: cpufreq tells no clocks"},
)


def test_every_fact_of_a_board_has_a_line() -> None:
    assert describe(ROCK) == [
        ("board", "Radxa ROCK 5B"),
        ("cpu", "4x Cortex-A55 + 3x Cortex-A76, aarch64, 6 cores, 2400 MHz, a quota of 6.50 cores"),
        ("cluster", "4x Cortex-A55 (cores 0-3), 1800 MHz"),
        ("cluster", "3x Cortex-A76 (cores 4,6-7), 2400 MHz"),
        ("features", "NEON, dotprod"),
        ("caches", "l1d 32 KiB, l2 512 KiB, l3 3 MiB"),
        ("memory", "16.0 GiB, 12.0 GiB available, reads 22.0 GB/s"),
        ("swap", "1.0 GiB, 0.5 GiB free"),
        ("pressure", "tasks waited for memory 1.2 % of the last 10 s"),
        ("storage", "100.0 GiB free for /var/lib/edgeagent on nvme, reads 2500 MB/s"),
        ("thermal", "soc-thermal 48.0 °C"),
        ("thermal", "the kernel slows the CPU from 75 °C"),
        ("thermal", "not throttled"),
        ("power", "BAT0: Battery, discharging"),
        ("power", "battery at 64 %"),
        ("draw", "VDD_IN 5.06 W"),
        ("power mode", "25W (others: 15W, MAXN_SUPER)"),
        ("accelerator", "npu Rockchip NPU (fdab0000.npu), driver RKNPU: not usable with rknn, none"),
        ("accelerator", "gpu amdgpu GPU, 8.0 GiB of its own: usable with vulkan, tried"),
        ("engine", "llama 1: ok, it spoke"),
        ("capability", "llama mlock: ok"),
        ("capability", "llama kv_q4_0: crashed, signal 11"),
        ("kernels", "2 threads, billion weights/s for a token and for a chunk: Q4_0 12.0 and 50.0"),
        ("kernels", "4 threads, billion weights/s for a token and for a chunk: Q4_0 20.0 and 90.0, Q8_0 11.0 and 80.0"),
        ("kernels", "80% of the burst rate under sustained load"),
        ("not known", "cpu.max_mhz: absent: cpufreq tells no clocks"),
        ("fingerprint", "f" * 16),
    ]


def test_machine_that_tells_nothing_has_few_lines() -> None:
    bare = Profile(
        fingerprint="0" * 64,
        board="unknown",
        cpu=Cpu(model="unknown", arch="unknown", cores=1),
        memory=MemoryFacts(total_bytes=0, available_bytes=0),
        storage=Storage(path="/x", free_bytes=0),
    )
    assert [label for label, _ in describe(bare)] == ["board", "cpu", "memory", "storage", "fingerprint"]


def test_verdict_on_batches_says_what_changes_no_bit_and_what_does() -> None:
    found = Invariance(decode_batch=4, draft_batch=16, free_prefill=True, mixed=True, restore=True, complete=True)
    assert tell_invariance(found) == (
        "up to 4 answers share a batch, drafts of up to 16 tokens, prompts in any pieces, prompts beside answers,"
        " saving and restoring; not rewinding, any number of threads"
    )
    assert tell_invariance(Invariance()).startswith("answers decode alone, no drafts; not prompts in any pieces")
    assert tell_invariance(Invariance()).endswith("; not all was tried")
