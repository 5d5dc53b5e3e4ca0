"""GPUs as kernels show them: each once, with driver and memory where they are told."""

from collections.abc import Callable, Mapping

import pytest

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.accelerators import read_accelerators
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
DRM, DEVFREQ = "sys/class/drm", "sys/class/devfreq"
COMPATIBLE = "sys/firmware/devicetree/base/compatible"


def render(node: str, driver: str, **facts: str) -> dict[str, str]:
    files = {f"{DRM}/{node}/device/{name}": text for name, text in facts.items()}
    return {f"{DRM}/{node}/device/uevent": f"DRIVER={driver}\n", f"dev/dri/{node}": "", **files}


def names(root: Sysroot) -> list[tuple[str, str]]:
    return [(a.kind, a.name) for a in read_accelerators(root)]


def only(root: Sysroot) -> Accelerator:
    (found,) = read_accelerators(root)
    return found


@pytest.mark.parametrize("driver", ["i915", "xe", "amdgpu", "v3d", "panfrost", "panthor", "msm", "nouveau"])
def test_render_node_is_a_vulkan_gpu_of_its_driver(tree: Tree, driver: str) -> None:
    gpu = only(tree(render("renderD128", driver)))
    assert (gpu.name, gpu.runtime, gpu.driver, gpu.usable) == (f"{driver} GPU (renderD128)", "vulkan", driver, False)


@pytest.mark.parametrize("driver", ["vc4-drm", "lima", "etnaviv"])
def test_gpu_without_a_vulkan_driver_is_told_as_opengl(tree: Tree, driver: str) -> None:
    assert only(tree(render("renderD128", driver))).runtime == "opengl"


def test_display_controllers_with_a_render_node_are_no_gpu(tree: Tree) -> None:
    assert names(tree(render("renderD128", "rockchip-drm") | render("renderD129", "imx-drm"))) == []


def test_amd_memory_is_its_own(tree: Tree) -> None:
    gpu = only(tree(render("renderD128", "amdgpu", mem_info_vram_total="8573157376\n")))
    assert gpu.memory_bytes == 8573157376


def test_soc_gpu_in_drm_and_devfreq_is_one(tree: Tree) -> None:
    devfreq = {f"{DEVFREQ}/fb000000.gpu/governor": "simple_ondemand\n"}
    assert names(tree(devfreq | render("renderD128", "panthor"))) == [("gpu", "panthor GPU (renderD128)")]


def test_soc_gpu_that_only_devfreq_shows_stands_beside_a_card(tree: Tree) -> None:
    devfreq = {f"{DEVFREQ}/fb000000.gpu/governor": "simple_ondemand\n"}
    assert ("gpu", "devfreq fb000000.gpu") in names(tree(devfreq | render("renderD128", "amdgpu")))


def test_vendors_mali_driver_names_its_model(tree: Tree) -> None:
    root = tree(
        {
            "dev/mali0": "",
            "sys/class/misc/mali0/device/gpuinfo": "Mali-G610 4 cores r0p0 0xA867\n",
            f"{DEVFREQ}/fb000000.gpu/governor": "simple_ondemand\n",
        }
    )
    assert names(root) == [("gpu", "Arm Mali-G610 (mali0)")]


def test_vendors_adreno_driver_names_its_model(tree: Tree) -> None:
    assert names(tree({"dev/kgsl-3d0": "", "sys/class/kgsl/kgsl-3d0/gpu_model": "Adreno740v2\n"})) == [
        ("gpu", "Qualcomm Adreno740v2 (kgsl-3d0)")
    ]


@pytest.mark.parametrize(
    ("chip", "block", "node", "name"),
    [
        ("nvidia,tegra234", "17000000.ga10b", "dev/nvhost-gpu", "Ampere (17000000.ga10b)"),
        ("nvidia,tegra234", "17000000.gpu", "dev/nvgpu/igpu0/ctrl", "Ampere (17000000.gpu)"),
        ("nvidia,tegra210", "57000000.gpu", "dev/nvhost-gpu", "Maxwell (57000000.gpu)"),
    ],
)
def test_jetson_gpu_is_one_with_its_display_nodes_left_out(
    tree: Tree, chip: str, block: str, node: str, name: str
) -> None:
    root = tree(
        {
            COMPATIBLE: f"nvidia,p3767-0000\0nvidia,p3768-0000+p3767-0000\0{chip}\0",
            f"{DEVFREQ}/{block}/device/uevent": "DRIVER=gk20a\n",
            f"{DEVFREQ}/15340000.vic/governor": "wmark_active\n",
            node: "",
            **render("renderD128", "tegra"),
            **render("renderD129", "nv_platform"),
        }
    )
    gpu = only(root)
    assert gpu.name == f"NVIDIA Jetson integrated GPU, {name}"
    assert (gpu.driver, gpu.memory_bytes, gpu.runtime) == ("gk20a", None, "cuda")


def test_jetson_gpu_without_devfreq_is_told_by_the_device_tree(tree: Tree) -> None:
    gpu = only(tree({COMPATIBLE: "nvidia,p3701-0000\0nvidia,tegra234\0"}))
    assert gpu.name == "NVIDIA Jetson integrated GPU, Ampere"
    assert gpu.why.startswith("/dev/nvhost-gpu is absent")


def test_nvidia_card_tells_its_drivers_version(tree: Tree) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    root = tree(
        {
            "proc/driver/nvidia/version": version,
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4060\n",
            **render("renderD128", "nvidia"),
        }
    )
    gpu = only(root)
    assert (gpu.name, gpu.driver) == ("NVIDIA GeForce RTX 4060", "nvidia 550.54.14")


def test_nvidia_card_without_a_driver_is_told_by_its_numbers(tree: Tree) -> None:
    card = {"vendor": "0x10de\n", "device": "0x2882\n", "class": "0x030000\n", "uevent": "PCI_ID=10DE:2882\n"}
    sound = {"vendor": "0x10de\n", "device": "0x22be\n", "class": "0x040300\n"}
    slots = {"0000:01:00.0": card, "0000:01:00.1": sound}
    root = tree({f"sys/bus/pci/devices/{slot}/{n}": t for slot, facts in slots.items() for n, t in facts.items()})
    gpu = only(root)
    assert (gpu.name, gpu.driver) == ("NVIDIA GPU (0000:01:00.0)", None)
    assert gpu.why.startswith("no driver is bound to it; ")
