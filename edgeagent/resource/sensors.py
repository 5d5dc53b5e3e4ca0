"""Reads what the governor needs to know now: a few small files under a sysroot, through the probes' readers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeagent.core.governor import Conditions
from edgeagent.core.hardware import Power
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal

POWER_EVERY_S = 60.0
"""Batteries and power modes change slowly."""
TICKS_S = 100
"""USER_HZ: the unit of CPU times in /proc, 1/100 s on every Linux that this runs on (proc_pid_stat(5))."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The workers under watch and the threads each uses when nothing is wrong. `cores`: those of this process."""

    pids: tuple[int, ...]
    threads: int
    cores: int
    allowed_cores: float
    """What the engine may use now (threads x duty): busy is the share of that."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """CPU time used so far, in ticks: by everything, by this program, by its engines."""

    at_s: float
    all: int
    own: int
    engines: int


class Sensors:
    """`throttle_c` is used where it is set; else the zones' own trip point, else `board_throttle_c`."""

    def __init__(
        self,
        root: Sysroot,
        clock: Callable[[], float],
        *,
        throttle_c: float | None = None,
        board_throttle_c: float | None = None,
        own_pid: int = 0,
    ) -> None:
        self._root = root
        self._clock = clock
        self._throttle_c = throttle_c
        self._board_throttle_c = board_throttle_c
        self._own_pid = own_pid
        self._power = Power()
        self._power_at_s: float | None = None
        self._ticks: Ticks | None = None

    def read(self, engine: Engine) -> Conditions:
        """The conditions now; loads are means since the last reading. Raises nothing for what cannot be read."""
        at_s, thermal, memory = self._clock(), read_thermal(self._root), read_memory(self._root)
        power = self._slow_power(at_s)
        busy, others = self._loads(at_s, engine)
        return Conditions(
            at_s=at_s,
            busy=busy,
            engine_threads=engine.threads,
            cores=engine.cores,
            temperature_c=max(thermal.zones.values(), default=None),
            throttle_c=self._throttle_c or thermal.throttle_c or self._board_throttle_c,
            is_throttled=thermal.throttled,
            available_bytes=memory.available_bytes if memory.total_bytes else None,
            total_bytes=memory.total_bytes or None,
            pressure_percent=memory.pressure_percent,
            swapped_bytes=max(0, memory.swap_total_bytes - memory.swap_free_bytes),
            battery_percent=power.battery_percent,
            is_discharging=any("discharging" in state for state in power.sources.values()),
            other_cores=others,
            power_mode=power.mode,
            power_modes=power.modes,
        )

    def _slow_power(self, at_s: float) -> Power:
        if self._power_at_s is None or at_s - self._power_at_s >= POWER_EVERY_S:
            self._power, self._power_at_s = read_power(self._root), at_s
        return self._power

    def _loads(self, at_s: float, engine: Engine) -> tuple[float, float | None]:
        """Busy share of the engine and cores that others use; (0, None) at the first reading."""
        engines = self._process_ticks(engine.pids)
        now = Ticks(at_s, self._machine_ticks(), self._process_ticks([self._own_pid]) + engines, engines)
        before, self._ticks = self._ticks, now
        if before is None or now.at_s <= before.at_s or now.engines < before.engines:
            return 0.0, None
        ticks = (now.at_s - before.at_s) * TICKS_S
        busy = min(1.0, (now.engines - before.engines) / (ticks * max(0.01, engine.allowed_cores)))
        return busy, max(0.0, (now.all - before.all - (now.own - before.own)) / ticks)

    def _machine_ticks(self) -> int:
        """Busy ticks of all cores: user, nice, system, irq, softirq (proc_stat(5))."""
        fields = (self._root.line("proc/stat") or "").split()[1:]
        numbers = [int(field) for field in fields if field.isdigit()]
        return sum(numbers[:3]) + sum(numbers[5:7]) if len(numbers) >= 7 else 0

    def _process_ticks(self, pids: Sequence[int]) -> int:
        total = 0
        for pid in pids:
            line = self._root.line(f"proc/{pid}/stat") or ""
            fields = line.rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:13] if field.isdigit())
        return total
