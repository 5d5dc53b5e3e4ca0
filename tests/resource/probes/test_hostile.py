"""Whatever a captured machine's files hold, the readers answer: no exception, and a document that prints."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeagent.core.hardware import Profile, Storage
from edgeagent.resource.probes.accelerators import read_accelerators
from edgeagent.resource.probes.board import read_board
from edgeagent.resource.probes.cpu import read_cache_bytes, read_cpu, read_cpu_times
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.rapl import read_rapl
from edgeagent.resource.probes.storage import read_storage
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal
from edgeagent.resource.probes.throttling import read_throttle_count

CPU = "sys/devices/system/cpu"
FILES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/stat",
    "proc/pressure/memory",
    "proc/self/cgroup",
    "proc/self/status",
    "proc/self/mountinfo",
    "proc/driver/nvidia/version",
    "proc/driver/nvidia/gpus/0/information",
    "sys/firmware/devicetree/base/model",
    "sys/firmware/devicetree/base/compatible",
    "sys/class/dmi/id/sys_vendor",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.pressure",
    "sys/fs/cgroup/memory.stat",
    "sys/fs/cgroup/memory.swap.max",
    f"{CPU}/online",
    f"{CPU}/cpu0/cache/index0/level",
    f"{CPU}/cpu0/cache/index0/size",
    f"{CPU}/cpu0/cache/index0/type",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq",
    f"{CPU}/cpu0/cpufreq/scaling_governor",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count",
    f"{CPU}/cpufreq/policy0/related_cpus",
    f"{CPU}/cpufreq/policy0/cpuinfo_max_freq",
    "sys/devices/cpu_core/cpus",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/class/thermal/thermal_zone0/type",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/thermal/thermal_zone0/trip_point_0_type",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp",
    "sys/class/thermal/thermal_zone0/cdev0_trip_point",
    "sys/class/thermal/thermal_zone0/cdev0/type",
    "sys/class/thermal/cooling_device0/type",
    "sys/class/thermal/cooling_device0/cur_state",
    "sys/class/hwmon/hwmon0/name",
    "sys/class/hwmon/hwmon0/in1_label",
    "sys/class/hwmon/hwmon0/in1_input",
    "sys/class/hwmon/hwmon0/curr1_input",
    "sys/class/hwmon/hwmon0/temp1_input",
    "sys/class/power_supply/BAT0/type",
    "sys/class/power_supply/BAT0/status",
    "sys/class/power_supply/BAT0/capacity",
    "sys/class/power_supply/BAT0/power_now",
    "sys/class/powercap/intel-rapl:0/name",
    "sys/class/powercap/intel-rapl:0/energy_uj",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0",
    "sys/bus/pci/devices/0/vendor",
    "sys/bus/pci/devices/0/device",
    "sys/bus/pci/devices/0/class",
    "sys/bus/usb/devices/1/idVendor",
    "sys/block/sda/dev",
    "sys/block/sda/queue/rotational",
    "sys/block/mmcblk0/device/type",
    "sys/class/drm/renderD128/device/uevent",
    "sys/class/drm/renderD128/device/mem_info_vram_total",
    "sys/class/accel/accel0/device/uevent",
    "sys/class/devfreq/1.npu/device/uevent",
    "sys/class/misc/mali0/device/gpuinfo",
    "sys/firmware/acpi/platform_profile",
    "etc/nvpmodel.conf",
    "var/lib/nvpmodel/status",
    "dev/mali0",
    "dev/hailo0",
    "dev/galcore",
)
"""Every kind of file that is read."""

REAL = st.sampled_from(
    [
        b"processor: 0\nmodel name: x\nflags: lm\n\nprocessor: 0-1\nCPU part: 0xd0b\nCPU implementer: 0x41\n",
        b"0::/" + b"a/" * 5000,
        b"0::/a\0b/../c\n1:cpu,memory:/\xff",
        b"Cpus_allowed_list:\t0-999999999\nCpus_allowed:\t" + b"f" * 9000,
        b"1 1 0:9 / / rw - overlay overlay rw,upperdir=/\n2 1 7:0 / /var rw - ext4 /dev/loop0",
        b"1 1 8:0 / / rw - ext4 /dev/sda\n\\777\\040",
        b"some avg10=1e309",
        b"DRIVER=\x1b[31m\nDRIVER=amdgpu\n",
        b"nvidia,tegra234\0",
        b"< POWER_MODEL ID=0 NAME=a >\npmode:0000",
        b"9" * 20,
        b"-9" + b"0" * 18,
        b"0x10de",
        b"passive",
        b"cpufreq",
        b"Battery",
        b"discharging",
        b"coretemp",
        b"32K",
        b"0-8191",
        b"\0",
        b"",
    ]
)
"""Half-right content reaches further than noise."""


def read_all(root: Sysroot) -> Profile:
    read_cache_bytes(root), read_cpu_times(root), read_rapl(root), read_throttle_count(root)
    return Profile(
        fingerprint="",
        board=read_board(root),
        cpu=read_cpu(root),
        memory=read_memory(root),
        accelerators=read_accelerators(root),
        thermal=read_thermal(root),
        power=read_power(root),
        storage=read_storage(root, Path("/var/lib/edgeagent")),
        gaps=root.gaps,
    )


def check(root: Sysroot) -> Profile:
    """Reads everything; what was read survives its way through JSON and is fit for a terminal."""
    profile = read_all(root)
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
    told = [profile.board, profile.cpu.model, *profile.cpu.features, *profile.thermal.zones, *profile.gaps.values()]
    told += [*profile.power.draw_w, *profile.power.sources.values(), *profile.power.modes, profile.power.mode or ""]
    told += [f"{a.name} {a.driver}" for a in profile.accelerators]
    assert all(text.isprintable() for text in told)
    assert all(why.startswith(("absent", "denied", "malformed", "unreadable")) for why in profile.gaps.values())
    return profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders, made once: the files in them are written over for each example."""
    folder = tmp_path_factory.mktemp("capture")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder


CONTENTS = st.fixed_dictionaries({name: st.binary(max_size=60) | REAL for name in FILES})
SLOW_DISK = [HealthCheck.too_slow, HealthCheck.data_too_large]


def write_and_check(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    check(Sysroot(folder))


@settings(max_examples=15, deadline=None, suppress_health_check=SLOW_DISK)
@given(contents=CONTENTS)
def test_any_bytes_in_every_file_read_as_something(folder: Path, contents: dict[str, bytes]) -> None:
    write_and_check(folder, contents)


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW_DISK)
@given(contents=CONTENTS)
def test_any_bytes_in_every_file_read_as_something_many_times(folder: Path, contents: dict[str, bytes]) -> None:
    write_and_check(folder, contents)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("proc/self/cgroup", b"0::/a\0b\n3:memory:/\0"),
        ("proc/self/cgroup", b"0::/" + b"a/" * 100_000),
        ("proc/self/mountinfo", b"1 1 0:9 / / rw - overlay o rw,upperdir=/x\\000y"),
        ("proc/self/mountinfo", b"1 1 7:0 / / rw - ext4 /dev/sda\\000"),
        ("proc/self/status", b"Cpus_allowed_list:\t0-" + b"9" * 100_000),
        ("proc/meminfo", b"MemTotal: " + b"9" * 5000 + b" kB"),
        ("proc/stat", b"cpu " + b"9" * 5000 + b" 1 1 1 1 1 1 1"),
        ("sys/fs/cgroup/memory.stat", b"inactive_file " + b"9" * 5000),
        (f"{CPU}/cpu0/cache/index0/size", b"9" * 5000 + b"K"),
        ("sys/bus/pci/devices/0/vendor", b"f" * 100_000),
    ],
)
def test_content_that_breaks_careless_readers(tmp_path: Path, name: str, content: bytes) -> None:
    everything = {"proc/self/cgroup": b"0::/", "proc/cpuinfo": b"processor: 0\n", "sys/fs/cgroup/memory.max": b"1"}
    for file, text in {**everything, name: content}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(text)
    check(Sysroot(tmp_path))


@pytest.mark.parametrize("name", FILES)
def test_folder_loop_pipe_and_dangling_link_in_a_files_place(tmp_path: Path, name: str) -> None:
    for kind in ("folder", "loop", "pipe", "dangling"):
        place = tmp_path / kind / name
        place.parent.mkdir(parents=True)
        if kind == "folder":
            place.mkdir()
        elif kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to(place.name if kind == "loop" else "nowhere")
        check(Sysroot(tmp_path / kind))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_folders_that_are_loops_of_links(tmp_path: Path, depth: int) -> None:
    for name in {"/".join(file.split("/")[:depth]) for file in FILES if file.count("/") >= depth}:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(place.name)
    check(Sysroot(tmp_path))


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


def test_denied_files_are_each_a_gap_that_says_denied() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in FILES:
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).touch(mode=0)
        with as_nobody():
            gaps = check(Sysroot(Path(folder))).gaps
    for name in ("proc/cpuinfo", "proc/meminfo", "proc/self/mountinfo", "sys/class/thermal/thermal_zone0/temp"):
        assert gaps[f"/{name}"] == "denied"
    assert gaps["memory.pressure_percent"] == "denied"


def test_denied_folders_are_gaps_too() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in ("proc", "sys/class", "dev"):
            (Path(folder) / name).mkdir(parents=True)
            (Path(folder) / name).chmod(0)
        with as_nobody():
            gaps = check(Sysroot(Path(folder))).gaps
    assert {gaps["/dev"], gaps["/sys/class/thermal"], gaps["/proc/meminfo"]} == {"denied"}


def test_names_that_cannot_be_printed_are_left_out(tmp_path: Path) -> None:
    supplies = tmp_path / "sys/class/power_supply"
    for name in (b"BAT\xff0", b"BAT\x1b[31m", b"BAT1"):
        (supplies / os.fsdecode(name)).mkdir(parents=True)
    assert list(check(Sysroot(tmp_path)).power.sources) == ["BAT1"]


def test_storage_kinds_are_those_the_document_names(tmp_path: Path) -> None:
    storage = read_storage(Sysroot(), tmp_path)
    assert storage.kind in {None, "nvme", "ssd", "disk", "sd", "emmc", "network", "memory"}
    assert isinstance(storage, Storage)
