"""Accelerators that the kernel shows. Seen is not usable: that takes a runtime, and a tiny model run on it."""

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.sysroot import Sysroot

NO_RUNTIME = "no runtime for it in this version"
USB = "sys/bus/usb/devices"
CORAL_USB_IDS = {"1a6e:089a", "18d1:9302"}
"""Coral USB accelerator before and after its firmware is loaded (docs.frigate.video/troubleshooting/edgetpu)."""


def read_accelerators(root: Sysroot) -> tuple[Accelerator, ...]:
    """GPUs, NPUs and TPUs by what they show: render nodes, driver files, device nodes, USB ids."""
    return (*_nvidia(root), *_render_nodes(root), *_devfreq(root), *_npus(root), *_coral(root))


def _nvidia(root: Sysroot) -> list[Accelerator]:
    base = "proc/driver/nvidia/gpus"
    found: list[Accelerator] = []
    for slot in root.names(base):
        lines = (root.text(f"{base}/{slot}/information") or "").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), slot)
        found.append(_seen(root, "gpu", f"NVIDIA {model.removeprefix('NVIDIA ')}", "cuda", "dev/nvidiactl"))
    return found


def _render_nodes(root: Sysroot) -> list[Accelerator]:
    """DRM render nodes; display-only controllers have none. NVIDIA's own driver is told of above."""
    found: list[Accelerator] = []
    for node in [name for name in root.names("sys/class/drm") if name.startswith("renderD")]:
        driver = _driver(root, f"sys/class/drm/{node}/device")
        if driver != "nvidia":
            found.append(_seen(root, "gpu", f"{driver} GPU ({node})", "vulkan", f"dev/dri/{node}"))
    return found


def _devfreq(root: Sysroot) -> list[Accelerator]:
    """Clocked blocks of a system on chip: `17000000.gpu` on Jetson Orin, `fdab0000.npu` on RK3588."""
    found: list[Accelerator] = []
    for name in root.names("sys/class/devfreq"):
        block = name.rpartition(".")[2].lower()
        if block in {"gpu", "gv11b", "ga10b", "mali"}:
            found.append(_seen(root, "gpu", f"devfreq {name}", "vendor driver"))
        elif block == "npu":
            found.append(_seen(root, "npu", f"devfreq {name}", "vendor driver"))
    return found


def _npus(root: Sysroot) -> list[Accelerator]:
    """Hailo's device nodes, and the kernel's own class for compute accelerators."""
    devices = root.names("dev")
    hailo = [_seen(root, "npu", f"Hailo ({n})", "hailort", f"dev/{n}") for n in devices if n.startswith("hailo")]
    accel = [
        _seen(root, "npu", f"{_driver(root, f'sys/class/accel/{n}/device')} ({n})", "vendor driver", f"dev/accel/{n}")
        for n in root.names("sys/class/accel")
    ]
    return hailo + accel


def _coral(root: Sysroot) -> list[Accelerator]:
    """The PCIe kind by its device node, the USB kind by its id."""
    nodes = [n for n in root.names("dev") if n.startswith("apex_")]
    ports = [port for port in root.names(USB) if _usb_id(root, port) in CORAL_USB_IDS]
    return [
        *(_seen(root, "tpu", f"Coral Edge TPU ({node})", "litert", f"dev/{node}") for node in nodes),
        *(_seen(root, "tpu", f"Coral Edge TPU (USB {port})", "litert") for port in ports),
    ]


def _usb_id(root: Sysroot, port: str) -> str:
    return f"{root.line(f'{USB}/{port}/idVendor')}:{root.line(f'{USB}/{port}/idProduct')}"


def _driver(root: Sysroot, device: str) -> str:
    lines = (root.text(f"{device}/uevent") or "").splitlines()
    return next((line.removeprefix("DRIVER=") for line in lines if line.startswith("DRIVER=")), "unknown")


def _seen(root: Sysroot, kind: str, name: str, runtime: str, device: str = "") -> Accelerator:
    why = NO_RUNTIME
    if device and not root.exists(device):
        why = f"/{device} is absent; {NO_RUNTIME}"
    elif device and not root.may_use(device):
        why = f"/{device} is denied to this user; {NO_RUNTIME}"
    return Accelerator.model_validate({"kind": kind, "name": name, "runtime": runtime, "usable": False, "why": why})
