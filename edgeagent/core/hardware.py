"""What a machine is and can do, as measured: the document `edgeagent profile --json` prints."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from edgeagent.core.cards import KvType
from edgeagent.core.invariance import Invariance


class Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CpuCluster(Fact):
    """Cores of one kind (big.LITTLE has several). `cores` are the kernel's numbers."""

    name: str
    cores: tuple[int, ...]
    max_mhz: float | None = None


class Cpu(Fact):
    model: str
    arch: str
    cores: int
    """Cores this process may use: affinity, and quotas rounded down to whole cores."""
    features: tuple[str, ...] = ()
    max_mhz: float | None = None
    clusters: tuple[CpuCluster, ...] = ()
    caches: dict[str, int] = Field(default_factory=dict)
    """`l1d`, `l1i`, `l2`, `l3`… to bytes, of the first core."""
    quota_cores: float | None = None
    """CPU time this process may use a second (cgroup quota), in cores; None: no quota."""


class MemoryFacts(Fact):
    total_bytes: int
    available_bytes: int
    bandwidth_bytes_s: float | None = None
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    pressure_percent: float | None = None
    """Share of the last 10 s in which some task waited for memory (PSI `some avg10`)."""


class Accelerator(Fact):
    kind: Literal["gpu", "npu", "tpu"]
    name: str
    runtime: str
    usable: bool
    why: str
    driver: str | None = None
    memory_bytes: int | None = None
    """Memory of its own; None: none, or not told."""


class Thermal(Fact):
    zones: dict[str, float] = Field(default_factory=dict)
    """Zone name to degrees Celsius."""
    throttled: bool | None = None
    throttle_c: float | None = None
    """Lowest temperature at which the kernel slows the CPU (a passive trip point)."""


class Power(Fact):
    sources: dict[str, str] = Field(default_factory=dict)
    battery_percent: float | None = None
    draw_w: dict[str, float] = Field(default_factory=dict)
    """Rail or supply to watts, as the sensors say now."""
    mode: str | None = None
    """Power mode in force (`nvpmodel`, platform profile, cpufreq governor)."""
    modes: tuple[str, ...] = ()


class Storage(Fact):
    path: str
    free_bytes: int
    kind: str | None = None
    """`nvme`, `ssd`, `disk`, `sd`, `emmc`, `network`, `memory`; None: not told."""
    read_bytes_s: float | None = None
    """Sequential read rate, measured past the page cache."""


class Verdict(Fact):
    """What became of trying something in a child process."""

    verdict: Literal["ok", "crashed", "hung", "failed", "untested"]
    reason: str
    settings: dict[str, bool] = Field(default_factory=dict)
    """The settings that are safe to use after this probe."""


CapabilityVerdict = Literal["ok", "crashed", "hung", "failed", "absent"]


class Capability(Fact):
    """One thing an engine might do here (`kv_q4_0`, `mlock`, `CUDAExecutionProvider`), tried in a child process."""

    name: str
    verdict: CapabilityVerdict
    reason: str
    at: str
    """Date of the trial, ISO 8601."""


class EngineFacts(Fact):
    name: str
    version: str
    usable: bool
    flags: dict[str, bool] = Field(default_factory=dict)
    probe: Verdict
    capabilities: tuple[Capability, ...] = ()

    def can(self, name: str) -> bool:
        return any(c.name == name and c.verdict == "ok" for c in self.capabilities)


class Rates(Fact):
    """Measured speed of one variant; `threads` and `kv_type` say under which settings."""

    prefill_tok_s: float = Field(gt=0)
    decode_tok_s: float = Field(gt=0)
    roofline_fraction: float | None = None
    """Decode bandwidth (weights read per second) over measured memory bandwidth."""
    compute_fraction: float | None = None
    """Prefill arithmetic (two operations a weight and token) over the machine's highest measured rate."""
    threads: int = Field(default=1, ge=1)
    kv_type: KvType = "q8_0"
    prompt_tokens: int = 0
    """Of the prompt they were measured with: attention makes longer ones slower."""
    busy_fraction: float | None = None
    """CPU time that other programs took right before: with much of it, the rates are too low."""


class KernelRates(Fact):
    """How fast weights of one type are applied with so many threads, in weights (multiply-adds) a second.

    `token_elem_s`: one token at a time (bound by memory); `chunk_elem_s`: a whole prompt chunk (bound by arithmetic),
    counted as weights x tokens.
    """

    type: str
    """ggml's name of the tensor type: `Q4_0`, `Q6_K`, `F16`."""
    threads: int = Field(ge=1)
    token_elem_s: float = Field(gt=0)
    chunk_elem_s: float = Field(gt=0)


class Overheads(Fact):
    """What evaluating costs beside applying weights, with so many threads."""

    threads: int = Field(ge=1)
    layer_s: float = Field(ge=0)
    """Seconds a layer takes in every batch, however small."""
    vector_elem_s: float = Field(gt=0)
    """Tokens x width a second of what is done in a prompt chunk beside matrices and attention, in one layer."""
    attention_token_elem_s: float = Field(gt=0)
    """Cached positions x attention width (heads x head size) a second for one token, in one layer."""
    attention_chunk_elem_s: float = Field(gt=0)
    """The same for prompt chunks: tokens x positions x width a second."""
    batch_shares: dict[int, float] = Field(default_factory=dict)
    """Batch size to how far its time lies from one token's (0) to a whole chunk's (1)."""


class Kernels(Fact):
    """The machine's arithmetic, measured on small synthetic models: every decoder's speed follows from it."""

    chunk_tokens: int
    rates: tuple[KernelRates, ...] = ()
    overheads: tuple[Overheads, ...] = ()
    kv_type: KvType = "q8_0"
    engine_settings: dict[str, bool] = Field(default_factory=dict)
    """The settings all this was measured with."""
    steady_fraction: float | None = None
    """Rate at the end of sustained load over its first second's; None: not measured."""
    steady_s: float | None = None
    """How long the load was sustained."""
    absent: dict[str, str] = Field(default_factory=dict)
    """Types that could not be measured, and why."""
    at: str = ""
    """Date of the measurement, ISO 8601."""

    @property
    def threads(self) -> tuple[int, ...]:
        """Thread counts measured, rising."""
        return tuple(sorted({r.threads for r in self.rates}))

    @property
    def gemm_flop_s(self) -> float | None:
        """The highest rate any type reaches in prompt chunks, two operations a weight: the compute roofline."""
        return max((2 * r.chunk_elem_s for r in self.rates), default=None)

    def has(self, kind: str, threads: int) -> bool:
        return any(r.type == kind and r.threads == threads for r in self.rates)


class Profile(Fact):
    """A machine's measured description.

    `rates` is keyed `<model id>/<variant>`, `invariance` by `core.invariance.EvaluationSettings.key` of that.
    """

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
    invariance: dict[str, Invariance] = Field(default_factory=dict)
    kernels: Kernels | None = None
    gaps: dict[str, str] = Field(default_factory=dict)
    """Facts that could not be read or measured, and why: `absent…`, `denied`, `malformed…`, `unreadable…`."""

    def engine(self, name: str) -> EngineFacts | None:
        return next((e for e in self.engines if e.name == name), None)

    def with_gap(self, fact: str, why: str) -> Self:
        """This profile, saying why a fact is not in it."""
        return self.model_copy(update={"gaps": {**self.gaps, fact: why}})
