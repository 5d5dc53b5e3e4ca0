"""What kind of device holds the state folder: cards, disks, arrays, overlays, networks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeagent.resource.probes.storage import read_storage
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
STATE = Path("/var/lib/edgeagent")
BLOCK = "sys/block"


def mounts(*lines: tuple[str, str, str, str]) -> dict[str, str]:
    """Device number, mount point, type, source, and options behind the source."""
    text = "\n".join(
        f"{n} 1 {number} / {point} rw - {kind} {source}" for n, (number, point, kind, source) in enumerate(lines)
    )
    return {"proc/self/mountinfo": text + "\n"}


def disk(name: str, number: str, *partitions: str, **facts: str) -> dict[str, str]:
    files = {f"{BLOCK}/{name}/dev": f"{number}:0\n"}
    files |= {f"{BLOCK}/{name}/{part}/dev": f"{number}:{n}\n" for n, part in enumerate(partitions, start=1)}
    return files | {f"{BLOCK}/{name}/{fact.replace('__', '/')}": f"{text}\n" for fact, text in facts.items()}


SD = disk("mmcblk0", "179", "mmcblk0p1", "mmcblk0p2", device__type="SD")
NVME = disk("nvme0n1", "259", "nvme0n1p1", device__transport="pcie")
HDD = disk("sda", "8", "sda1", queue__rotational="1", removable="0")
SSD = disk("sdb", "9", "sdb1", queue__rotational="0")


def kind(root: Sysroot) -> tuple[str | None, str]:
    return read_storage(root, STATE).kind, root.gaps.get("storage.kind", "")


def test_sd_card_is_found_by_number_though_the_source_is_dev_root(tree: Tree) -> None:
    assert kind(tree({**mounts(("179:2", "/", "ext4", "/dev/root")), **SD})) == ("sd", "")


@pytest.mark.parametrize(
    ("device", "number", "source", "expected"),
    [
        (disk("mmcblk0", "179", "mmcblk0p1", device__type="MMC"), "179:1", "/dev/mmcblk0p1", "emmc"),
        (NVME, "259:1", "/dev/nvme0n1p1", "nvme"),
        (disk("nvme1n1", "259", device__transport="tcp"), "259:0", "/dev/nvme1n1", "network"),
        (HDD, "8:1", "/dev/sda1", "disk"),
        (SSD, "9:1", "/dev/sdb1", "ssd"),
        (disk("zram1", "254"), "254:0", "/dev/zram1", "memory"),
        (disk("nbd0", "43"), "43:0", "/dev/nbd0", "network"),
    ],
)
def test_device_tells_its_kind(tree: Tree, device: dict[str, str], number: str, source: str, expected: str) -> None:
    assert kind(tree({**mounts((number, "/", "ext4", source)), **device})) == (expected, "")


def test_btrfs_without_a_device_number_is_found_by_its_source(tree: Tree) -> None:
    assert kind(tree({**mounts(("0:27", "/", "btrfs", "/dev/nvme0n1p1")), **NVME})) == ("nvme", "")


@pytest.mark.parametrize(("fs", "expected"), [("tmpfs", "memory"), ("nfs4", "network"), ("cifs", "network")])
def test_file_system_alone_tells(tree: Tree, fs: str, expected: str) -> None:
    assert kind(tree(mounts(("0:50", "/var", fs, "there")))) == (expected, "")


def test_deepest_mount_counts_and_a_similar_name_does_not(tree: Tree) -> None:
    told = mounts(
        ("179:2", "/", "ext4", "x"), ("259:1", "/var/lib", "ext4", "y"), ("0:9", "/var/lib/edge", "tmpfs", "z")
    )
    assert kind(tree({**told, **SD, **NVME})) == ("nvme", "")


def test_mount_over_another_one_counts(tree: Tree) -> None:
    told = mounts(("179:2", "/var", "ext4", "x"), ("259:1", "/var", "ext4", "y"))
    assert kind(tree({**told, **SD, **NVME})) == ("nvme", "")


def test_mount_point_with_a_space_and_a_link_to_it(tree: Tree) -> None:
    told = mounts(("179:2", "/", "ext4", "x"), ("259:1", "/mnt/big\\040one", "ext4", "y"))
    root = tree({**told, **SD, **NVME, "mnt/big one/": "", "var/lib/edgeagent": "-> ../../mnt/big one"})
    assert kind(root) == ("nvme", "")


def mapped(*below: str) -> dict[str, str]:
    return {**disk("dm-0", "253", dm__name="vg-root"), **{f"{BLOCK}/dm-0/slaves/{name}/": "" for name in below}}


@pytest.mark.parametrize(
    "mount", [("253:0", "/", "ext4", "/dev/mapper/vg-root"), ("0:3", "/", "btrfs", "/dev/mapper/vg-root")]
)
def test_mapping_is_what_it_lies_on(tree: Tree, mount: tuple[str, str, str, str]) -> None:
    assert kind(tree({**mounts(mount), **mapped("sdb1"), **SSD})) == ("ssd", "")


def test_mapping_over_several_kinds_is_not_told(tree: Tree) -> None:
    found, why = kind(tree({**mounts(("253:0", "/", "ext4", "x")), **mapped("sda1", "sdb1"), **HDD, **SSD}))
    assert (found, why) == (None, "absent: it lies on devices of several kinds")


def test_mappings_in_a_circle_end(tree: Tree) -> None:
    found, why = kind(tree({**mounts(("253:0", "/", "ext4", "x")), **mapped("dm-0")}))
    assert (found, why) == (None, "malformed: its devices rest on each other in a circle")


def test_overlay_is_where_it_writes_to(tree: Tree) -> None:
    told = mounts(
        ("0:40", "/", "overlay", "overlay rw,lowerdir=/ro,upperdir=/media/rw/up"), ("0:41", "/media/rw", "tmpfs", "t")
    )
    assert kind(tree(told)) == ("memory", "")


def test_overlay_of_a_container_hides_its_device(tree: Tree) -> None:
    told = mounts(("0:40", "/", "overlay", "overlay rw,upperdir=/var/lib/docker/overlay2/x/diff"))
    assert kind(tree({**told, **NVME})) == (None, "absent: an overlay hides the device (a container)")


def test_loop_file_is_on_what_its_folder_is_on(tree: Tree) -> None:
    told = mounts(("179:2", "/", "ext4", "x"), ("7:0", "/var", "ext4", "/dev/loop0"))
    assert kind(tree({**told, **SD, **disk("loop0", "7", loop__backing_file="/images/var.img")})) == ("sd", "")


def test_loop_file_on_itself_ends(tree: Tree) -> None:
    told = mounts(("7:0", "/", "ext4", "/dev/loop0"))
    found, _ = kind(tree({**told, **disk("loop0", "7", loop__backing_file="/var.img")}))
    assert found is None


@pytest.mark.parametrize(
    ("device", "number", "why"),
    [
        (disk("vda", "254", queue__rotational="1"), "254:0", "virtual disk"),
        (disk("sdc", "8", queue__rotational="1", device__vendor="QEMU"), "8:0", "virtual disk"),
        (disk("sdc", "8", queue__rotational="1", removable="1"), "8:0", "USB bridges"),
        (disk("mmcblk0", "179"), "179:0", "`type` is not told"),
        (disk("sdc", "8"), "8:0", "does not tell if it turns"),
        ({}, "8:0", "no block device that is told"),
    ],
)
def test_device_that_does_not_tell_is_a_gap(tree: Tree, device: dict[str, str], number: str, why: str) -> None:
    found, reason = kind(tree({**mounts((number, "/", "ext4", "/dev/x")), **device}))
    assert found is None
    assert why in reason


def test_usb_disk_behind_its_link_is_not_called_turning(tree: Tree) -> None:
    place = "sys/devices/pci0/usb2/2-1/block/sdc"
    files = {
        f"{place}/dev": "8:32\n",
        f"{place}/queue/rotational": "1\n",
        f"{BLOCK}/sdc": "-> ../devices/pci0/usb2/2-1/block/sdc",
    }
    found, why = kind(tree({**mounts(("8:32", "/", "ext4", "x")), **files}))
    assert (found, why) == (None, "absent: USB bridges report flash as rotational too")


def test_disk_over_iscsi_is_on_the_network(tree: Tree) -> None:
    place = "sys/devices/platform/host2/session1/block/sdc"
    files = {f"{place}/dev": "8:32\n", f"{BLOCK}/sdc": "-> ../devices/platform/host2/session1/block/sdc"}
    assert kind(tree({**mounts(("8:32", "/", "ext4", "x")), **files})) == ("network", "")


def test_no_mounts_told_is_a_gap(tree: Tree) -> None:
    assert kind(tree({})) == (None, "absent: no mount is told for it")


def test_this_machine_tells_a_kind_or_why_not(tmp_path: Path) -> None:
    root = Sysroot()
    storage = read_storage(root, tmp_path)
    assert (storage.kind is None) == ("storage.kind" in root.gaps)
