"""The readers over captured machines: each fact, and what is said of facts that are not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeagent.resource.probes.accelerators import read_accelerators
from edgeagent.resource.probes.board import read_board
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.sightings import NO_RUNTIME
from edgeagent.resource.probes.storage import read_storage
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal

LEFT_OUT = {
    "cpu.caches",
    "memory.pressure_percent",
    "storage.kind",
    "thermal.throttle_c",
    "power.draw_w",
    "power.mode",
}
"""What none of the machines in `conftest.py` tells."""


def read_all(root: Sysroot) -> None:
    for read in (read_accelerators, read_board, read_cpu, read_memory, read_power, read_thermal):
        read(root)
    read_storage(root, Path("/var/lib/edgeagent"))


def test_pi_5_cpu_and_board_are_named_from_part_number_and_device_tree(raspberry_pi_5: Path) -> None:
    root = Sysroot(raspberry_pi_5)
    cpu = read_cpu(root)
    assert (cpu.model, cpu.arch, cpu.cores, cpu.max_mhz) == ("Cortex-A76", "aarch64", 4, 2400.0)
    assert "asimddp" in cpu.features
    assert read_board(root) == "Raspberry Pi 5 Model B Rev 1.0"


def test_pi_5_soft_limit_bit_means_throttled_though_the_fan_spins_too(raspberry_pi_5: Path) -> None:
    thermal = read_thermal(Sysroot(raspberry_pi_5))
    assert thermal.zones == {"cpu-thermal": 51.8}
    assert thermal.throttled is True


def test_pi_5_bits_of_the_past_do_not_mean_throttled(raspberry_pi_5: Path) -> None:
    file = raspberry_pi_5 / "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    file.write_text("f0000\n")
    assert read_thermal(Sysroot(raspberry_pi_5)).throttled is False


def test_pi_5_accelerators_are_seen_but_not_usable(raspberry_pi_5: Path) -> None:
    found = read_accelerators(Sysroot(raspberry_pi_5))
    assert [(a.kind, a.name) for a in found] == [("gpu", "v3d GPU (renderD128)"), ("npu", "Hailo (hailo0)")]
    assert {(a.usable, a.why) for a in found} == {(False, NO_RUNTIME)}


def test_pi_5_facts_it_lacks_are_gaps(raspberry_pi_5: Path) -> None:
    root = Sysroot(raspberry_pi_5)
    read_all(root)
    assert set(root.gaps) == LEFT_OUT | {"power"}


def test_x86_container_gets_the_limits_of_the_group_above_it(x86_server: Path) -> None:
    root = Sysroot(x86_server)
    memory = read_memory(root)
    assert memory.total_bytes == 2 * 2**30
    assert memory.available_bytes == 2 * 2**30 - (2**30 - 2**29)
    assert read_cpu(root).cores == 2


def test_x86_affinity_below_the_quota_counts(x86_server: Path) -> None:
    (x86_server / "proc/self/status").write_text("Cpus_allowed:\t00000000,00000010\n")
    assert read_cpu(Sysroot(x86_server)).cores == 1


def test_x86_server_nvidia_gpu_is_told_once_and_a_missing_node_is_said(x86_server: Path) -> None:
    (gpu,) = read_accelerators(Sysroot(x86_server))
    assert gpu.name == "NVIDIA L4"
    assert gpu.why == f"/dev/nvidiactl is absent; {NO_RUNTIME}"


def test_x86_laptop_battery_counts_and_a_mouse_battery_does_not(x86_server: Path) -> None:
    power = read_power(Sysroot(x86_server))
    assert power.battery_percent == 64
    assert power.sources == {"BAT0": "Battery, discharging", "rapl:package-0": "readable"}


def test_cgroup_v1_limit_is_found_at_the_mount_of_its_controller(x86_server: Path) -> None:
    (x86_server / "proc/self/cgroup").write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    for name, text in {
        "memory/job/memory.limit_in_bytes": "1000000",
        "memory/job/memory.usage_in_bytes": "400000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    }.items():
        file = x86_server / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    memory = read_memory(Sysroot(x86_server))
    assert (memory.total_bytes, memory.available_bytes) == (1_000_000, 600_000)
    assert read_cpu(Sysroot(x86_server)).cores == 1


def test_big_little_model_names_both_kinds_and_features_are_common_ones(tmp_path: Path) -> None:
    core = (
        "processor : {n}\nFeatures : fp asimd{more}\nCPU implementer : 0x41\nCPU part : {part}\nCPU architecture: 8\n"
    )
    (tmp_path / "proc").mkdir()
    text = core.format(n=0, more="", part="0xd05") + "\n" + core.format(n=1, more=" sve", part="0xd0b")
    (tmp_path / "proc/cpuinfo").write_text(text)
    cpu = read_cpu(Sysroot(tmp_path))
    assert cpu.model == "1x Cortex-A55 + 1x Cortex-A76"
    assert cpu.features == ("asimd", "fp")


def test_empty_sysroot_reads_as_unknown_with_every_gap_named(tmp_path: Path) -> None:
    root = Sysroot(tmp_path)
    read_all(root)
    assert read_cpu(root).model == "unknown"
    told = {"board", "cpu", "cpu.max_mhz", "memory", "power", "thermal", "thermal.throttled"}
    assert set(root.gaps) == told | LEFT_OUT
    assert all(why.startswith("absent") for why in root.gaps.values())


def test_garbage_sysroot_reads_as_unknown_and_names_the_bad_files(garbage: Path) -> None:
    root = Sysroot(garbage)
    read_all(root)
    assert read_board(root) == "[31m"  # what is printable of a hostile name, without its escape
    assert root.gaps["/sys/class/thermal/thermal_zone0/temp"] == "malformed: not a number"
    assert root.gaps["/sys/class/drm"] == "unreadable: Not a directory"
    assert root.gaps["/sys/firmware/devicetree/base/model"] == "unreadable: not a regular file"
    assert root.gaps["/sys/class/devfreq"].startswith("unreadable: Too many levels")
    assert root.gaps["thermal.throttled"].startswith("malformed")


def test_link_out_of_the_sysroot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").symlink_to("/proc/cpuinfo")
    root = Sysroot(tmp_path)
    assert read_cpu(root).model == "unknown"
    assert root.gaps["/proc/cpuinfo"] == "unreadable: leads outside the sysroot"


def test_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc/meminfo")
    root = Sysroot(tmp_path)
    assert read_memory(root).total_bytes == 0
    assert root.gaps["/proc/meminfo"] == "unreadable: not a regular file"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read anything, so become someone who may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_denied_file_is_a_gap_that_says_denied(public_folder: Path) -> None:
    energy = public_folder / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.parent.mkdir(parents=True)
    energy.write_text("1")
    energy.chmod(0)
    root = Sysroot(public_folder)
    with as_nobody():
        power = read_power(root)
    assert power.sources == {"rapl:intel-rapl:0": "denied"}
    assert root.gaps["/sys/class/powercap/intel-rapl:0/energy_uj"] == "denied"


def test_denied_device_says_so(public_folder: Path) -> None:
    (public_folder / "dev").mkdir()
    (public_folder / "dev/hailo0").touch(mode=0)
    with as_nobody():
        (npu,) = read_accelerators(Sysroot(public_folder))
    assert npu.why == f"/dev/hailo0 is denied to this user; {NO_RUNTIME}"


def test_storage_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    storage = read_storage(Sysroot(), tmp_path / "not/yet")
    assert storage.path == str(tmp_path / "not/yet")
    assert storage.free_bytes > 0
