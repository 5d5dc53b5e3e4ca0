"""What the governor reads: files under a sysroot, loads from two readings."""

from collections.abc import Callable, Iterator
from pathlib import Path

from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.sensors import Engine, Sensors

ENGINE = Engine((7,), threads=4, cores=4, allowed_cores=2.0)


def clock(*times: float) -> Callable[[], float]:
    left: Iterator[float] = iter(times)
    return lambda: next(left)


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def put_times(root: Path, machine: int, own: int, engine: int) -> None:
    put(root, "proc/stat", f"cpu  {machine} 0 0 9999 0 0 0 0 0 0\n")
    for pid, ticks in ((1, own), (7, engine)):
        put(root, f"proc/{pid}/stat", f"{pid} (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5 6 7\n")


def test_loads_are_told_apart_after_a_second_reading(tmp_path: Path) -> None:
    sensors = Sensors(Sysroot(tmp_path), clock(0.0, 10.0), own_pid=1)
    put_times(tmp_path, machine=5000, own=100, engine=1000)
    first = sensors.read(ENGINE)
    assert (first.busy, first.other_cores) == (0.0, None)
    put_times(tmp_path, machine=5000 + 2600, own=150, engine=1000 + 1500)
    second = sensors.read(ENGINE)
    assert second.busy == 0.75  # 1.5 of the 2 cores it may use
    assert second.other_cores == (2600 - 50 - 1500) / 1000


def test_heat_and_memory_come_from_the_sysroot(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "61200\n")
    put(tmp_path, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 2000000 kB\n")
    now = Sensors(Sysroot(tmp_path), clock(0.0), board_throttle_c=80.0).read(ENGINE)
    assert (now.temperature_c, now.throttle_c) == (61.2, 80.0)
    assert (now.available_bytes, now.total_bytes) == (2000000 * 1024, 8000000 * 1024)


def test_configured_throttle_point_goes_before_the_boards(tmp_path: Path) -> None:
    now = Sensors(Sysroot(tmp_path), clock(0.0), throttle_c=70.0, board_throttle_c=80.0).read(ENGINE)
    assert now.throttle_c == 70.0


def test_empty_machine_tells_nothing(tmp_path: Path) -> None:
    now = Sensors(Sysroot(tmp_path), clock(0.0)).read(ENGINE)
    assert now.temperature_c is None
    assert now.available_bytes is None
    assert not now.is_discharging
