"""GPUs: NVIDIA's cards, Jetson's integrated ones, DRM render nodes, and vendors' own device nodes."""

import re

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.pci import pci_devices
from edgeagent.resource.probes.sightings import NO_DRIVER, compatible, driver_of, nodes, seen
from edgeagent.resource.probes.sysroot import Sysroot

DRM = "sys/class/drm"
DEVFREQ = "sys/class/devfreq"
NVIDIA = "proc/driver/nvidia"
NVIDIA_PCI, DISPLAY_CLASS = 0x10DE, 0x03
TEGRA_GPUS = {
    "nvidia,tegra210": "Maxwell",
    "nvidia,tegra186": "Pascal",
    "nvidia,tegra194": "Volta",
    "nvidia,tegra234": "Ampere",
    "nvidia,tegra264": "Blackwell",
}
"""System on chip to the architecture of its GPU (NVIDIA, Jetson module data sheets)."""
TEGRA_BLOCKS = {"gpu", "gm20b", "gp10b", "gv11b", "ga10b", "ga10b_gpu"}
TEGRA_NODES = ("dev/nvhost-gpu", "dev/nvgpu/igpu0/ctrl", "dev/nvmap")
DISPLAY_ONLY = {"rockchip-drm", "imx-drm", "mediatek-drm", "sun4i-drm", "meson-drm", "drm", "tegra-drm", "vkms", "vgem"}
"""Drivers of display controllers that have a render node too: nothing computes there."""
NOT_A_GPU = {"nvidia", "RKNPU", *DISPLAY_ONLY}
WITHOUT_VULKAN = {"vc4-drm", "vc4", "lima", "etnaviv", "radeon"}
"""Mesa offers OpenGL only (docs.mesa3d.org/drivers)."""
PLATFORM = {"v3d", "panfrost", "panthor", "lima", "msm", "msm_dpu", "msm-mdss", "adreno", "etnaviv", "vc4-drm", "vc4"}
"""Drivers of GPUs inside a system on chip: its devfreq block is the same GPU."""
PLATFORM_BLOCKS = {"gpu", "mali", *TEGRA_BLOCKS}


def read_gpus(root: Sysroot) -> list[Accelerator]:
    """Each GPU once, though the kernel may show it in several places."""
    jetson, own = _jetson(root), _vendor_nodes(root)
    drm = _render_nodes(root, only_cards=bool(jetson))
    in_chip = [*jetson, *(gpu for gpu in drm if gpu.driver in PLATFORM), *own]
    return [*_nvidia_cards(root), *jetson, *drm, *own, *([] if in_chip else _devfreq(root))]


def _nvidia_cards(root: Sysroot) -> list[Accelerator]:
    driver, found, slots = _nvidia_driver(root), [], set()
    for slot in root.names(f"{NVIDIA}/gpus"):
        lines = root.lines(f"{NVIDIA}/gpus/{slot}/information")
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "") or slot
        name = "".join(c for c in model.removeprefix("NVIDIA ") if c.isprintable())[:80]
        found.append(seen(root, "gpu", f"NVIDIA {name}", "cuda", "dev/nvidiactl", driver=driver))
        slots.add(slot)
    for device in pci_devices(root):
        is_gpu = device.vendor == NVIDIA_PCI and device.device_class >> 16 == DISPLAY_CLASS
        if is_gpu and device.driver is None and device.slot not in slots:
            found.append(seen(root, "gpu", f"NVIDIA GPU ({device.slot})", "cuda", obstacle=NO_DRIVER))
    return found


def _nvidia_driver(root: Sysroot) -> str:
    """`nvidia 550.54.14`, of `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  …`."""
    version = re.search(r"\b[0-9]{3}(?:\.[0-9]{1,4}){1,2}\b", root.line(f"{NVIDIA}/version") or "")
    return f"nvidia {version[0]}" if version else "nvidia"


def _jetson(root: Sysroot) -> list[Accelerator]:
    """The GPU of a Tegra chip shares the machine's memory. Its node depends on the release of Jetson Linux."""
    chip = next((TEGRA_GPUS[name] for name in compatible(root) if name in TEGRA_GPUS), None)
    if chip is None:
        return []
    blocks = [name for name in root.names(DEVFREQ) if _block(name) in TEGRA_BLOCKS]
    node = next((node for node in TEGRA_NODES if root.exists(node)), TEGRA_NODES[0])
    name = f"NVIDIA Jetson integrated GPU, {chip}" + (f" ({blocks[0]})" if blocks else "")
    driver = driver_of(root, f"{DEVFREQ}/{blocks[0]}/device") if blocks else None
    return [seen(root, "gpu", name, "cuda", node, driver=driver)]


def _render_nodes(root: Sysroot, *, only_cards: bool) -> list[Accelerator]:
    """DRM render nodes; most display-only controllers have none. NVIDIA's own driver is told of above.

    On a Jetson display and GPU have nodes whose drivers change with each release: there only PCI cards count.
    """
    found: list[Accelerator] = []
    for node in [name for name in root.names(DRM) if name.startswith("renderD")]:
        folder = f"{DRM}/{node}/device"
        driver = driver_of(root, folder)
        if driver in NOT_A_GPU or (only_cards and not root.exists(f"{folder}/vendor")):
            continue
        runtime = "opengl" if driver in WITHOUT_VULKAN else "vulkan"
        memory = root.number(f"{folder}/mem_info_vram_total") if driver == "amdgpu" else None
        name = f"{driver or 'unknown'} GPU ({node})"
        memory_bytes = memory if memory and memory > 0 else None
        found.append(seen(root, "gpu", name, runtime, f"dev/dri/{node}", driver=driver, memory_bytes=memory_bytes))
    return found


def _vendor_nodes(root: Sysroot) -> list[Accelerator]:
    """Arm's and Qualcomm's drivers outside of DRM, as in vendor kernels and Android."""
    found = [
        seen(root, "gpu", f"{_mali(root, node)} ({node})", "opencl", f"dev/{node}", driver="mali")
        for node in nodes(root, r"mali[0-9]{1,2}")
    ]
    for node in nodes(root, r"kgsl-3d[0-9]{1,2}"):
        model = root.line(f"sys/class/kgsl/{node}/gpu_model") or "Adreno"
        found.append(seen(root, "gpu", f"Qualcomm {model} ({node})", "opencl", f"dev/{node}", driver="kgsl"))
    return found


def _mali(root: Sysroot, node: str) -> str:
    """`Arm Mali-G610`, of `Mali-G610 4 cores r0p0 0xA867`."""
    model = (root.line(f"sys/class/misc/{node}/device/gpuinfo") or "").split(" ")[0]
    return f"Arm {model}" if model.startswith("Mali") else "Arm Mali"


def _devfreq(root: Sysroot) -> list[Accelerator]:
    """Clocked blocks of a system on chip that nothing else tells of: `ffe40000.gpu`."""
    blocks = [name for name in root.names(DEVFREQ) if _block(name) in PLATFORM_BLOCKS]
    return [
        seen(root, "gpu", f"devfreq {name}", "vendor driver", driver=driver_of(root, f"{DEVFREQ}/{name}/device"))
        for name in blocks
    ]


def _block(name: str) -> str:
    """`gpu` of `17000000.gpu` and of `gpu@17000000`."""
    return name.partition("@")[0].rpartition(".")[2].lower()
