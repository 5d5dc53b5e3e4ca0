"""What a machine is and can do, as measured: the document `edgeagent profile --json` prints."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cpu(Fact):
    model: str
    arch: str
    cores: int
    features: tuple[str, ...] = ()
    max_mhz: float | None = None


class MemoryFacts(Fact):
    total_bytes: int
    available_bytes: int
    bandwidth_bytes_s: float | None = None


class Accelerator(Fact):
    kind: Literal["gpu", "npu", "tpu"]
    name: str
    runtime: str
    usable: bool
    why: str


class Thermal(Fact):
    zones: dict[str, float] = Field(default_factory=dict)
    """Zone name to degrees Celsius."""
    throttled: bool | None = None


class Power(Fact):
    sources: dict[str, str] = Field(default_factory=dict)
    battery_percent: float | None = None


class Storage(Fact):
    path: str
    free_bytes: int


class Verdict(Fact):
    """What became of trying something in a child process."""

    verdict: Literal["ok", "crashed", "hung", "failed", "untested"]
    reason: str
    settings: dict[str, bool] = Field(default_factory=dict)
    """The settings that are safe to use after this probe."""


class EngineFacts(Fact):
    name: str
    version: str
    usable: bool
    flags: dict[str, bool] = Field(default_factory=dict)
    probe: Verdict


class Rates(Fact):
    """Measured speed of one variant; `threads` and `kv_type` say under which settings."""

    prefill_tok_s: float = Field(gt=0)
    decode_tok_s: float = Field(gt=0)
    roofline_fraction: float | None = None
    """Decode bandwidth (weights read per second) over measured memory bandwidth."""
    threads: int = Field(default=1, ge=1)
    kv_type: Literal["f16", "q8_0"] = "q8_0"
    busy_fraction: float | None = None
    """CPU time that other programs took right before: with much of it, the rates are too low."""


class Profile(Fact):
    """A machine's measured description. `rates` is keyed `<model id>/<variant>`."""

    fingerprint: str
    board: str
    board_profile: str | None = None
    """Id of the matching file in `hwprofiles/`, if any."""
    cpu: Cpu
    memory: MemoryFacts
    accelerators: tuple[Accelerator, ...] = ()
    thermal: Thermal = Thermal()
    power: Power = Power()
    storage: Storage
    engines: tuple[EngineFacts, ...] = ()
    rates: dict[str, Rates] = Field(default_factory=dict)
    gaps: dict[str, str] = Field(default_factory=dict)
    """Facts that could not be read or measured, and why: `absent…`, `denied`, `malformed…`, `unreadable…`."""

    def engine(self, name: str) -> EngineFacts | None:
        return next((e for e in self.engines if e.name == name), None)
