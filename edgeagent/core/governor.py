"""What the governor sees and what it advises: how the engine should run while the machine is hot, full or hungry."""

from dataclasses import dataclass

from edgeagent.core.cards import KvType


@dataclass(frozen=True, slots=True)
class Conditions:
    """The machine at one moment. None: this machine does not tell.

    `at_s` is monotonic. `busy` is the share of the time since the last reading that the engine worked.
    """

    at_s: float
    busy: float
    engine_threads: int
    """Threads the engine uses when nothing is wrong."""
    cores: int
    temperature_c: float | None = None
    """The hottest zone."""
    throttle_c: float | None = None
    """Where the machine starts to slow down because of heat."""
    is_throttled: bool | None = None
    available_bytes: int | None = None
    total_bytes: int | None = None
    pressure_percent: float | None = None
    """Share of the last 10 s in which some task waited for memory (PSI)."""
    swapped_bytes: int = 0
    """Swap in use."""
    battery_percent: float | None = None
    is_discharging: bool = False
    other_cores: float | None = None
    """Cores that other programs use."""
    power_mode: str | None = None
    power_modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Levers:
    """What a request would run with if nothing were wrong, and whether a smaller variant of its model is here."""

    kv_type: KvType = "q8_0"
    context_tokens: int = 4096
    has_smaller_variant: bool = False


@dataclass(frozen=True, slots=True)
class EngineAdvice:
    """How the engine should run now. What is None stays as it was chosen.

    `threads` and `duty` change no bits of an answer and apply at once; the others apply between requests.
    """

    threads: int | None = None
    duty: float = 1.0
    """Share of the time that the engine computes; it rests between tokens and chunks."""
    smaller_variant: bool = False
    kv_type: KvType | None = None
    context_tokens: int | None = None
    pause: bool = False
    """Start no further request until this is over."""
    power_mode: str | None = None
    """A board power mode that would serve better than the present one."""
    reasons: tuple[str, ...] = ()
    """One sentence for each thing that is held back: what, and why."""

    @property
    def holds_back(self) -> bool:
        """Whether the engine is to do less; another power mode alone only serves better."""
        slower = self.threads is not None or self.duty < 1 or self.pause
        return slower or self.smaller_variant or self.kv_type is not None or self.context_tokens is not None

    @property
    def is_neutral(self) -> bool:
        return not self.reasons
