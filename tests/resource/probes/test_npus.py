"""NPUs and TPUs as kernels show them."""

from collections.abc import Callable, Mapping

import pytest

from edgeagent.resource.probes.npus import read_npus
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
COMPATIBLE = "sys/firmware/devicetree/base/compatible"


def pci(slot: str, vendor: str, device: str, driver: str = "") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{slot}"
    uevent = f"DRIVER={driver}\n" if driver else ""
    return {f"{folder}/vendor": f"0x{vendor}\n", f"{folder}/device": f"0x{device}\n", f"{folder}/uevent": uevent}


def accel(node: str, driver: str) -> dict[str, str]:
    return {f"sys/class/accel/{node}/device/uevent": f"DRIVER={driver}\n", f"dev/accel/{node}": ""}


def names(root: Sysroot) -> list[tuple[str, str, str]]:
    return [(a.kind, a.name, a.runtime) for a in read_npus(root)]


@pytest.mark.parametrize(("device", "name"), [("2864", "Hailo-8 or 8L"), ("45c4", "Hailo-10H"), ("0001", "Hailo")])
def test_hailo_is_named_by_its_pci_number(tree: Tree, device: str, name: str) -> None:
    (npu,) = read_npus(tree({**pci("0001:01:00.0", "1e60", device, "hailo"), "dev/hailo0": ""}))
    assert (npu.name, npu.runtime, npu.driver) == (f"{name} (hailo0)", "hailort", "hailo")


def test_hailo_without_its_driver_is_told_with_why(tree: Tree) -> None:
    (npu,) = read_npus(tree(pci("0001:01:00.0", "1e60", "2864")))
    assert npu.name == "Hailo-8 or 8L (0001:01:00.0)"
    assert npu.why.startswith("no driver is bound to it; ")


@pytest.mark.parametrize(
    ("driver", "name", "runtime"),
    [
        ("intel_vpu", "Intel NPU", "openvino"),
        ("amdxdna", "AMD XDNA NPU", "xrt"),
        ("rocket", "Rockchip NPU", "mesa teflon"),
        ("somebodys", "somebodys", "vendor driver"),
    ],
)
def test_kernels_own_class_of_accelerators(tree: Tree, driver: str, name: str, runtime: str) -> None:
    assert names(tree(accel("accel0", driver))) == [("npu", f"{name} (accel0)", runtime)]


RKNPU = {
    COMPATIBLE: "xunlong,orangepi-5\0rockchip,rk3588s\0",
    "sys/class/devfreq/fdab0000.npu/cur_freq": "1000000000\n",
    "sys/class/drm/renderD129/device/uevent": "DRIVER=RKNPU\nOF_FULLNAME=/npu@fdab0000\n",
    "dev/dri/renderD129": "",
}


def test_rockchip_npu_in_drm_and_devfreq_is_one(tree: Tree) -> None:
    (npu,) = read_npus(tree({**RKNPU, "sys/kernel/debug/rknpu/version": "RKNPU driver: v0.9.6\n"}))
    assert (npu.name, npu.runtime, npu.driver) == ("Rockchip NPU (fdab0000.npu)", "rknn", "RKNPU driver: v0.9.6")


def test_rockchip_npu_that_only_devfreq_shows(tree: Tree) -> None:
    root = tree({name: text for name, text in RKNPU.items() if "drm" not in name})
    assert names(root) == [("npu", "Rockchip NPU (fdab0000.npu)", "rknn")]


def test_rockchip_npu_under_the_mainline_driver_is_one(tree: Tree) -> None:
    clocked = {name: text for name, text in RKNPU.items() if "drm" not in name}
    assert names(tree({**clocked, **accel("accel0", "rocket")})) == [("npu", "Rockchip NPU (accel0)", "mesa teflon")]


def test_npu_block_of_another_maker_is_told_as_it_is(tree: Tree) -> None:
    assert names(tree({"sys/class/devfreq/1000.npu/cur_freq": "1\n"})) == [("npu", "devfreq 1000.npu", "vendor driver")]


@pytest.mark.parametrize(
    ("chip", "kinds"),
    [("fsl,imx8mp", ["gpu", "npu"]), ("fsl,imx8mm", ["gpu"]), ("amlogic,g12b", ["npu"]), ("x", ["gpu"])],
)
def test_vivantes_node_is_what_the_chip_has(tree: Tree, chip: str, kinds: list[str]) -> None:
    root = tree({COMPATIBLE: f"some,board\0{chip}\0", "dev/galcore": ""})
    assert [npu.kind for npu in read_npus(root)] == kinds


def test_imx8mp_npu_under_the_mainline_driver(tree: Tree) -> None:
    root = tree({"sys/firmware/devicetree/base/soc@0/npu@38500000/": ""})
    assert names(root) == [("npu", "Vivante VIP NPU (npu@38500000)", "mesa teflon")]


@pytest.mark.parametrize(
    ("node", "name", "runtime"),
    [
        ("ethosu0", "Arm Ethos-U NPU", "litert"),
        ("fastrpc-cdsp", "Qualcomm Hexagon NPU", "qnn"),
        ("nvhost-ctrl-nvdla1", "NVIDIA DLA", "tensorrt"),
        ("vipcore", "Vivante VIP NPU", "vendor driver"),
    ],
)
def test_device_node_tells(tree: Tree, node: str, name: str, runtime: str) -> None:
    assert names(tree({f"dev/{node}": ""})) == [("npu", f"{name} ({node})", runtime)]


@pytest.mark.parametrize("node", ["fastrpc-cdsp-secure", "fastrpc-adsp", "hailo_x", "apex", "xethosu0"])
def test_similar_device_node_is_none(tree: Tree, node: str) -> None:
    assert names(tree({f"dev/{node}": ""})) == []


def test_coral_on_pcie_is_told_by_its_node(tree: Tree) -> None:
    root = tree({**pci("0000:01:00.0", "1ac1", "089a", "apex"), "dev/apex_0": ""})
    assert names(root) == [("tpu", "Coral Edge TPU (apex_0)", "litert")]


def test_coral_on_pcie_without_its_driver_is_told_with_why(tree: Tree) -> None:
    (tpu,) = read_npus(tree(pci("0000:01:00.0", "1ac1", "089a")))
    assert tpu.why.startswith("no driver is bound to it; ")


@pytest.mark.parametrize(
    ("vendor", "product", "count"), [("1a6e", "089a", 1), ("18d1", "9302", 1), ("18d1", "4ee7", 0)]
)
def test_coral_on_usb_is_told_by_its_number(tree: Tree, vendor: str, product: str, count: int) -> None:
    port = "sys/bus/usb/devices/2-1"
    assert len(names(tree({f"{port}/idVendor": vendor, f"{port}/idProduct": product}))) == count
