"""What the planner is told: one request, this machine's option, the peers', and the rules. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeagent.core.plan import Candidate, PlanKind, ReductionLevel
from edgeagent.resource.corrections import Factors
from edgeagent.resource.cost import LinkSpeeds, Speeds
from edgeagent.resource.sharing import Slowdown, speeds_beside
from edgeagent.resource.split_candidates import Shape

Objective = Literal["latency", "energy", "quality"]


@dataclass(frozen=True, slots=True)
class LocalOption:
    """The variant selected for this machine. `memory_bytes` is what running it takes."""

    model: str
    variant: str
    speeds: Speeds
    context_tokens: int
    memory_bytes: int
    quality: float | None
    kv_bytes_per_token: int
    exact_key: str = ""
    can_prune: bool = True
    shape: Shape | None = None
    """None: the model cannot be split here."""
    num_vocab: int | None = None
    head: "HeadOption | None" = None
    """None: the whole variant is here. Else `speeds` are what those of all layers would be."""
    draws: bool = False
    """Whether the output head is here by itself: this machine may draw the tokens of a split answer."""
    no_output: str = ""
    """Why it is not, where that is known."""


@dataclass(frozen=True, slots=True)
class HeadOption:
    """Only the first `k` layers are here, and `why`."""

    k: int
    why: str


@dataclass(frozen=True, slots=True)
class PeerOption:
    """One model on one peer, and the way to it."""

    peer: str
    model: str
    variant: str
    speeds: Speeds
    link: LinkSpeeds
    context_tokens: int
    kv_bytes_per_token: int
    exact_key: str
    variant_sha256: str = ""
    queue_s: float = 0.0
    """Until a job may begin."""
    num_beside: int = 0
    """Answers that the peer writes for others meanwhile, from the same engine."""
    beside: Sequence[Slowdown] = ()
    """What it says of one job more beside 1, 2, … of them."""
    quality: float | None = None
    is_broken: bool = False
    is_same_variant: bool = False
    is_served: bool = False
    """Somebody else's server runs it, which gives text and no token ids."""
    cuts: Sequence[int] = ()
    """How many layers this machine may keep for the peer to run the rest."""
    final_hidden: bool = False
    """Whether it can give final hidden states for this machine to draw from."""
    most_between: int = 0
    """How many layers it would run to pass hidden states on behind them."""
    loaded: frozenset[tuple[int, int]] = frozenset()
    """Layers `[begin, end)` that it has ready by themselves."""
    making_s: float = 0.0
    """How long it takes until it has others."""
    links: Mapping[str, LinkSpeeds] = field(default_factory=dict)
    """From it to peers that it would pass them on to, as it measured them."""
    barred: frozenset[PlanKind] = frozenset()
    """Plans that this device's credential, or the peer's, does not allow with this model."""
    corrections: Mapping[PlanKind, Factors] = field(default_factory=dict)
    """What earlier answers of these plans with this peer took, against their predictions."""

    def making_of(self, begin: int, end: int) -> float:
        """Seconds until it has these layers ready by themselves."""
        return 0.0 if (begin, end) in self.loaded else self.making_s

    @property
    def own_speeds(self) -> Speeds:
        """What others leave to one job more in the same engine."""
        return speeds_beside(self.speeds, self.num_beside, self.beside)


@dataclass(frozen=True, slots=True)
class PromptOption:
    """The prompt at one reduction level; the cache of its first `reused_tokens` is here."""

    level: ReductionLevel
    tokens: int
    reused_tokens: int = 0
    pruned_tokens: int = 0
    """Positions that are dropped from this machine's cache once the prompt was read."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which way a request went."""

    plan: PlanKind
    peer: str | None
    k: int | None
    behind: tuple[str, ...] = ()
    """Peers behind that one."""

    @classmethod
    def of(cls, candidate: Candidate) -> "Choice":
        return cls(candidate.plan, candidate.peer, candidate.k, candidate.peers[1:])


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as the planner sees it. `model` restricts candidates to one model."""

    prompts: Sequence[PromptOption]
    max_tokens: int
    """Tokens of answer that have to fit the context."""
    expected_tokens: int
    """How long the answer will probably be: what prices are for."""
    plan: PlanKind | None = None
    level: ReductionLevel | None = None
    model: str | None = None
    objective: Objective = "latency"
    deadline_s: float | None = None
    adapter: str | None = None
    """A LoRA adapter of this machine: a peer's status tells of none, and the protocol has no word for one."""
    has_penalties: bool = False
    """Draws look at the prompt's tokens."""
    has_grammar: bool = False
    """The answer has to have a form."""
    last: Choice | None = None
    """What the request before chose."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the owner of this machine allows."""

    plans: frozenset[PlanKind] = frozenset(PlanKind)
    text_may_leave: bool = True
    lossy_wire: bool = False
    quality_floor: float | None = None
    latency_target_s: float = 10.0
    memory_limit_bytes: int | None = None
    """Of this machine, for all models; None: as much as was granted to what is loaded."""


@dataclass(frozen=True, slots=True)
class Situation:
    """This machine's option, the peers', and the rules."""

    local: LocalOption
    peers: Sequence[PeerOption] = ()
    rules: Rules = field(default_factory=Rules)
