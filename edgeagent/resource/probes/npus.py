"""NPUs and TPUs: by their device nodes, the kernel's class of accelerators, PCI and USB numbers, the device tree."""

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.pci import pci_devices
from edgeagent.resource.probes.sightings import NO_DRIVER, compatible, driver_of, nodes, seen
from edgeagent.resource.probes.sysroot import Sysroot

ACCEL = "sys/class/accel"
DEVFREQ = "sys/class/devfreq"
DRM = "sys/class/drm"
USB = "sys/bus/usb/devices"
HAILO_PCI = {0x2864: "Hailo-8 or 8L", 0x45C4: "Hailo-10H"}
"""Vendor 1e60 (pci-ids.ucw.cz). Hailo-8 and 8L have one number: only their firmware tells them apart."""
HAILO_VENDOR = 0x1E60
CORAL_PCI = (0x1AC1, 0x089A)
CORAL_USB_IDS = {"1a6e:089a", "18d1:9302"}
"""Coral USB accelerator before and after its firmware is loaded (docs.frigate.video/troubleshooting/edgetpu)."""
ACCEL_DRIVERS = {
    "intel_vpu": ("Intel NPU", "openvino"),
    "amdxdna": ("AMD XDNA NPU", "xrt"),
    "rocket": ("Rockchip NPU", "mesa teflon"),
    "ethosu": ("Arm Ethos-U NPU", "mesa teflon"),
    "qaic": ("Qualcomm Cloud AI", "qnn"),
}
"""Drivers under `drivers/accel` of Linux, and what computes through them."""
NODES = (
    (r"ethosu[0-9]{1,2}", "Arm Ethos-U NPU", "litert"),
    (r"fastrpc-cdsp[0-9]?", "Qualcomm Hexagon NPU", "qnn"),
    (r"cdsprpc-smd", "Qualcomm Hexagon NPU", "qnn"),
    (r"nvhost-(?:ctrl-)?nvdla[0-9]", "NVIDIA DLA", "tensorrt"),
    (r"vipcore", "Vivante VIP NPU", "vendor driver"),
)
GALCORE = "galcore"
GALCORE_CHIPS = {
    "fsl,imx8mp": ("gpu", "npu"),
    "fsl,imx8mm": ("gpu",),
    "fsl,imx8mn": ("gpu",),
    "fsl,imx8mq": ("gpu",),
    "amlogic,g12b": ("npu",),
    "amlogic,sm1": ("npu",),
}
"""Vivante's one driver node serves GPU, NPU or both, as the chip has them."""
IMX8MP_NPU = "sys/firmware/devicetree/base/soc@0/npu@38500000"
"""The same NPU under the mainline driver, etnaviv (Linux, `imx8mp.dtsi`)."""
RKNPU_VERSION = "sys/kernel/debug/rknpu/version"


def read_npus(root: Sysroot) -> list[Accelerator]:
    """Each NPU and TPU once, usable or not; one whose driver is missing is told by its PCI number."""
    named = [
        seen(root, "npu", f"{name} ({node})", runtime, f"dev/{node}")
        for pattern, name, runtime in NODES
        for node in nodes(root, pattern)
    ]
    return [*_hailo(root), *_accel(root), *_rockchip(root), *named, *_vivante(root), *_coral(root)]


def _hailo(root: Sysroot) -> list[Accelerator]:
    cards = [device for device in pci_devices(root) if device.vendor == HAILO_VENDOR]
    names = [HAILO_PCI.get(card.device, "Hailo") for card in cards]
    name = names[0] if len(set(names)) == 1 else "Hailo"
    found = nodes(root, r"hailo[0-9]{1,2}")
    if not found:
        return [
            seen(root, "npu", f"{HAILO_PCI.get(card.device, 'Hailo')} ({card.slot})", "hailort", obstacle=NO_DRIVER)
            for card in cards
        ]
    driver = next((card.driver for card in cards if card.driver), None)
    return [seen(root, "npu", f"{name} ({node})", "hailort", f"dev/{node}", driver=driver) for node in found]


def _accel(root: Sysroot) -> list[Accelerator]:
    """The kernel's own class for compute accelerators."""
    found: list[Accelerator] = []
    for node in [name for name in root.names(ACCEL) if name.startswith("accel")]:
        driver = driver_of(root, f"{ACCEL}/{node}/device")
        name, runtime = ACCEL_DRIVERS.get(driver or "", (driver or "unknown", "vendor driver"))
        found.append(seen(root, "npu", f"{name} ({node})", runtime, f"dev/accel/{node}", driver=driver))
    return found


def _rockchip(root: Sysroot) -> list[Accelerator]:
    """Vendor kernels show one NPU as a render node, a node of its own, or only as a clocked block."""
    renders = [name for name in root.names(DRM) if name.startswith("renderD")]
    paths = [f"dev/dri/{node}" for node in renders if driver_of(root, f"{DRM}/{node}/device") == "RKNPU"]
    blocks = [name for name in root.names(DEVFREQ) if name.rpartition(".")[2].lower() == "npu"]
    paths += [f"dev/{node}" for node in nodes(root, r"rknpu[0-9]?")]
    if paths:
        driver = root.line(RKNPU_VERSION) or "RKNPU"  # root's only; a gap says so
        where = blocks[0] if blocks else paths[0].rpartition("/")[2]
        return [seen(root, "npu", f"Rockchip NPU ({where})", "rknn", paths[0], driver=driver)]
    if blocks and not any(driver_of(root, f"{ACCEL}/{name}/device") == "rocket" for name in root.names(ACCEL)):
        is_rockchip = any(name.startswith("rockchip,") for name in compatible(root))
        name, runtime = ("Rockchip NPU", "rknn") if is_rockchip else ("devfreq", "vendor driver")
        return [
            seen(root, "npu", f"{name} ({block})" if is_rockchip else f"{name} {block}", runtime) for block in blocks
        ]
    return []


def _vivante(root: Sysroot) -> list[Accelerator]:
    if not root.exists(f"dev/{GALCORE}") and root.exists(IMX8MP_NPU):
        return [seen(root, "npu", "Vivante VIP NPU (npu@38500000)", "mesa teflon")]
    chips = compatible(root)
    kinds = next((kinds for chip, kinds in GALCORE_CHIPS.items() if chip in chips), ("gpu",))
    names = {"gpu": ("Vivante GPU", "opencl"), "npu": ("Vivante VIP NPU", "litert")}
    return [
        seen(root, kind, f"{names[kind][0]} ({GALCORE})", names[kind][1], f"dev/{GALCORE}", driver=GALCORE)
        for kind in (kinds if root.exists(f"dev/{GALCORE}") else ())
    ]


def _coral(root: Sysroot) -> list[Accelerator]:
    """The PCIe kind by its device node or number, the USB kind by its number."""
    name, found = "Coral Edge TPU", nodes(root, r"apex_[0-9]{1,2}")
    cards = [device for device in pci_devices(root) if (device.vendor, device.device) == CORAL_PCI]
    ports = [port for port in root.names(USB) if _usb_id(root, port) in CORAL_USB_IDS]
    return [
        *(seen(root, "tpu", f"{name} ({node})", "litert", f"dev/{node}", driver="apex") for node in found),
        *(seen(root, "tpu", f"{name} ({c.slot})", "litert", obstacle=NO_DRIVER) for c in cards if not found),
        *(seen(root, "tpu", f"{name} (USB {port})", "litert") for port in ports),
    ]


def _usb_id(root: Sysroot, port: str) -> str:
    return f"{root.line(f'{USB}/{port}/idVendor')}:{root.line(f'{USB}/{port}/idProduct')}"
