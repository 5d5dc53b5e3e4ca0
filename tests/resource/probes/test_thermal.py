"""Temperatures, trip points of the CPU, and signs of throttling."""

from collections.abc import Callable, Mapping

import pytest

from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal
from edgeagent.resource.probes.throttling import read_throttle_count

Tree = Callable[[Mapping[str, str]], Sysroot]
CLASS = "sys/class/thermal"


def zone(
    number: int, kind: str, milli: int, *trips: tuple[str, int], coolers: Mapping[int, int] | None = None
) -> dict[str, str]:
    """`trips`: type and millidegrees. `coolers`: number of a cooling device to the trip point it is bound to."""
    folder = f"{CLASS}/thermal_zone{number}"
    files = {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{milli}\n"}
    for index, (trip, at) in enumerate(trips):
        files |= {f"{folder}/trip_point_{index}_type": f"{trip}\n", f"{folder}/trip_point_{index}_temp": f"{at}\n"}
    for index, (cooler, trip_index) in enumerate((coolers or {}).items()):
        files[f"{folder}/cdev{index}"] = f"-> ../cooling_device{cooler}"
        files[f"{folder}/cdev{index}_trip_point"] = f"{trip_index}\n"
    return files


def cooler(number: int, kind: str, state: int) -> dict[str, str]:
    folder = f"{CLASS}/cooling_device{number}"
    return {f"{folder}/type": f"{kind}\n", f"{folder}/cur_state": f"{state}\n"}


def test_lowest_passive_trip_of_a_cpu_zone_is_where_it_throttles(tree: Tree) -> None:
    rk3588 = zone(0, "soc-thermal", 48000, ("passive", 75000), ("passive", 85000), ("critical", 115000))
    thermal = read_thermal(tree({**rk3588, **zone(1, "gpu-thermal", 47000, ("passive", 70000))}))
    assert thermal.throttle_c == 75.0
    assert thermal.zones == {"soc-thermal": 48.0, "gpu-thermal": 47.0}


def test_only_trips_bound_to_a_cpu_cooling_device_count(tree: Tree) -> None:
    orin = zone(0, "tj-thermal", 50000, ("active", 51000), ("passive", 60000), ("passive", 99000), coolers={0: 1, 1: 2})
    root = tree({**orin, **cooler(0, "pwm-fan", 1), **cooler(1, "cpufreq-cpu0", 0)})
    thermal = read_thermal(root)
    assert (thermal.throttle_c, thermal.throttled) == (99.0, False)


def test_trips_that_only_a_fan_follows_are_no_throttling(tree: Tree) -> None:
    pi = zone(0, "cpu-thermal", 50000, ("passive", 60000), ("critical", 110000), coolers={0: 0})
    root = tree({**pi, **cooler(0, "pwm-fan", 2)})
    assert read_thermal(root).throttle_c is None
    assert root.gaps["thermal.throttle_c"].startswith("absent")


@pytest.mark.parametrize("unset", [0, -274000, 2147483647])
def test_trip_that_nobody_set_does_not_count(tree: Tree, unset: int) -> None:
    root = tree(zone(0, "x86_pkg_temp", 50000, ("passive", unset), ("passive", unset)))
    assert read_thermal(root).throttle_c is None


def test_sensor_without_a_reading_is_left_out(tree: Tree) -> None:
    root = tree({**zone(0, "cpu-thermal", -274000), **zone(1, "gpu-thermal", 41500)})
    assert read_thermal(root).zones == {"gpu-thermal": 41.5}


def test_zones_of_one_name_stay_apart(tree: Tree) -> None:
    root = tree({**zone(0, "acpitz", 30000), **zone(1, "acpitz", 40000)})
    assert read_thermal(root).zones == {"acpitz": 30.0, "acpitz@thermal_zone1": 40.0}


def test_hardware_monitor_tells_where_there_are_no_zones(tree: Tree) -> None:
    chip = "sys/class/hwmon/hwmon1"
    files = {f"{chip}/name": "k10temp\n", f"{chip}/temp1_input": "61125\n", f"{chip}/temp1_label": "Tctl\n"}
    root = tree({**files, "sys/class/hwmon/hwmon0/name": "nvme\n", "sys/class/hwmon/hwmon0/temp1_input": "40000\n"})
    assert read_thermal(root).zones == {"k10temp Tctl": 61.125}


@pytest.mark.parametrize(
    ("kind", "state", "throttled"),
    [
        ("cpu-throttle-alert", 1, True),
        ("gpu-throttle-alert", 1, True),
        ("cpu-throttle-alert", 0, False),
        ("thermal-cpufreq-0", 3, True),
        ("Processor", 0, False),
        ("pwm-fan", 4, None),
        ("devfreq-17000000.gpu", 2, None),
    ],
)
def test_cooling_devices_tell_of_throttling(tree: Tree, kind: str, state: int, throttled: bool | None) -> None:
    root = tree(cooler(0, kind, state))
    assert read_thermal(root).throttled is throttled
    assert ("thermal.throttled" in root.gaps) == (throttled is None)


def test_events_are_counted_over_cores_and_power_alarms(tree: Tree) -> None:
    counts = {f"sys/devices/system/cpu/cpu{n}/thermal_throttle/core_throttle_count": f"{n + 1}\n" for n in range(2)}
    alarms = {"sys/class/hwmon/hwmon3/name": "soctherm_oc\n", "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n"}
    assert read_throttle_count(tree({**counts, **alarms})) == 1 + 2 + 37


def test_machine_that_counts_no_events_says_so(tree: Tree) -> None:
    assert read_throttle_count(tree({"sys/class/hwmon/hwmon3/name": "nvme\n"})) is None
