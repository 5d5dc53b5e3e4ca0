"""Plans and their price: what may run where, what it was predicted to cost, and what it did cost."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PlanKind(StrEnum):
    LOCAL = "local"
    REMOTE = "remote"
    PREFILL = "prefill"
    SPLIT_PREFILL = "split-prefill"
    SPLIT_DECODE = "split-decode"

    @property
    def is_split(self) -> bool:
        """Whether hidden states travel instead of text."""
        return self in (PlanKind.SPLIT_PREFILL, PlanKind.SPLIT_DECODE)


class ReductionLevel(StrEnum):
    """`L0` keeps every line, those that change last; `L1` leaves out what is said twice; `L2` selects sentences by
    relevance to the question; `L3` also drops words that could be guessed; `L4` also has a summary of old turns.

    `L5` reads all, then drops what the end of the prompt attends to least from the cache; only where it was asked for.
    """

    L0 = "L0"
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dropped(Value):
    source: str
    tokens: int
    reason: str


class Moved(Value):
    """Lines of the instructions that change between requests, now read with the newest question."""

    lines: int
    tokens: int
    """Of the moved lines with what introduces them."""


class ReductionReport(Value):
    level: ReductionLevel = ReductionLevel.L0
    tokens_in: int = 0
    tokens_kept: int = 0
    dropped: tuple[Dropped, ...] = ()
    layout: Moved | None = None
    """None: every line is where it came."""
    order: tuple[str, ...] = ()
    """Sources as they stand in the prompt, where that is not as they came."""


class Recalled(Value):
    id: str
    score: float


class MemoryReport(Value):
    recalled: tuple[Recalled, ...] = ()
    written: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    """Recalled for earlier questions of the conversation, and still in front of these."""


class Handover(Value):
    """`at_token` output tokens came from `from_`; the rest comes from `to`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    at_token: int
    from_: str = Field(alias="from")
    to: str
    reason: str


class Costs(Value):
    """Predicted or measured, in the same keys. None: not known (no sensor, no tokens)."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    up_bytes: int = 0
    down_bytes: int = 0
    energy_j: float | None = None


class Held(Value):
    """Layers `[begin, end)` of a split model; `peer` None: they are here."""

    peer: str | None = None
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.begin} to {self.end - 1} {f'at {self.peer}' if self.peer else 'here'}"


class Candidate(Value):
    """One way to run a request and its predicted price; `rejected` says why it may not be chosen."""

    plan: PlanKind
    peer: str | None = None
    model: str
    variant: str
    reduction: ReductionLevel = ReductionLevel.L0
    k: int | None = None
    """Split point (layers held here); None without a split."""
    stages: tuple[Held, ...] = ()
    """Of a split: who has which layers, in order. A second peer gets hidden states from the first one."""
    wire_bits: int | None = None
    """Bits a value on the wire; None when text travels."""
    ttft_s: float
    tpot_s: float
    total_s: float
    up_bytes: int = 0
    down_bytes: int = 0
    energy_j: float | None = None
    memory_bytes: int = 0
    warm_tokens: int = 0
    """Prompt tokens whose cache is here, and which were priced at nothing; a peer's cache is not known."""
    quality: float | None = None
    """Perplexity of the variant on its card; lower is better; None: unmeasured."""
    wire: Literal["exact", "lossy"] = "exact"
    wire_kl: float | None = None
    """Of a lossy wire: mean KL divergence from the exact one, in nats, as measured with the embedded chat model."""
    making_s: float = 0.0
    """Part of the time to the first token: until peers have layers ready that they have not now."""
    correction: tuple[float, float] = (1.0, 1.0)
    """Factors in the time to the first token and in that between tokens: how far earlier predictions of this plan with
    this peer were off."""
    rejected: str | None = None

    @property
    def peers(self) -> tuple[str, ...]:
        """All that take part."""
        return tuple(s.peer for s in self.stages if s.peer) or ((self.peer,) if self.peer else ())


class Decision(Value):
    """The planner's answer: the winner, one sentence of why, and the whole table."""

    chosen: Candidate
    why: str
    candidates: tuple[Candidate, ...]


class PlanQuery(Value):
    """A request that is only priced. What is left out (None) is taken from the live machine, link and peers."""

    prompt_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    link_mbit_s: float | None = Field(default=None, gt=0)
    rtt_ms: float | None = Field(default=None, ge=0)
    peer_tok_s: float | None = Field(default=None, gt=0)
    """Prefill rate of an imagined peer, in tokens a second."""
    policy: Literal["latency", "energy", "quality"] | None = None


class CascadeReport(Value):
    """What became of the smaller model's answer. Times are of this request, whole and in wall time."""

    small: str
    larger: str
    confidence: float | None = None
    """Probability that the small answer is right; None: there was none to judge."""
    threshold: float
    """What the confidence had to reach; of an early decision the bound that it passed."""
    stood: bool
    early_at: int | None = None
    """Tokens after which it was decided, when that was before the end."""
    small_tokens: int = 0
    small_s: float = 0.0
    """Until it was decided; as long was nothing shown."""
    larger_s: float | None = None


class AnswerReport(Value):
    """The `edgeagent` object of every answer: what was done, and why."""

    plan: PlanKind
    model: str
    variant: str
    adapter: str | None = None
    """The LoRA adapter that every token was evaluated with."""
    peer: str | None = None
    why: str
    k: int | None = None
    stages: tuple[Held, ...] = ()
    """See `Candidate.stages`."""
    wire: Literal["exact", "lossy"] = "exact"
    """What crossed to the peer and back: `lossy` only where `policy.lossy_wire` allows it."""
    wire_bits: int | None = None
    """Bits of a hidden state's value; None where none travelled."""
    wire_kl: float | None = None
    """See `Candidate.wire_kl`."""
    seed: int = 0
    reduction: ReductionReport = ReductionReport()
    memory: MemoryReport = MemoryReport()
    handover: tuple[Handover, ...] = ()
    predicted: Costs = Costs()
    measured: Costs = Costs()
    """Counted from the plan on, as the prediction is."""
    prepare_s: float = 0.0
    """From the request to the plan: loading the model, recalling, deciding on tools, reducing."""
    kv_tokens: int = 0
    """Prompt tokens whose cache came from the peer."""
    peer_tokens: int = 0
    """Answer tokens that the peer drew."""
    reused_tokens: int = 0
    """Prompt tokens whose cache was here already."""
    drafted_tokens: int = 0
    """Tokens guessed ahead on this machine (speculative decoding)."""
    accepted_tokens: int = 0
    """Of these, those that were right."""
    notes: tuple[str, ...] = ()
    """Failures on the way that did not stop the answer."""
    cascade: CascadeReport | None = None
    """Only where `models.cascade` was used."""
    decision: Decision | None = None
    """The whole table the planner chose from."""
