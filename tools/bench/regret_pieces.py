"""What bench `regret` measures once and replays often: how long each part of an answer takes at one end."""

import pickle
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeagent.core.cards import ModelCard, Variant
from edgeagent.core.hardware import Rates
from edgeagent.execution.loading import LoadedFacts, LoadSettings
from edgeagent.execution.stages import StageFacts


@dataclass(frozen=True, slots=True)
class Line:
    """`at(x)` = base + slope * x: seconds over positions, or over bytes."""

    base: float
    slope: float = 0.0

    def at(self, x: float) -> float:
        return max(0.0, self.base + self.slope * x)

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "Line":
        """Least squares, and no slope below 0: more positions are not less work."""
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
        slope = max(0.0, slope)
        return cls(mean_y - slope * mean_x, slope)


@dataclass(frozen=True, slots=True)
class Part:
    """Some layers: seconds for a whole chunk and for one token behind so many positions, as their caller sees it."""

    chunk_s: Line
    step_s: Line

    def span_s(self, tokens: int, past: int, shares: Sequence[tuple[int, float]], chunk_tokens: int) -> float:
        """Of a batch of 1 to `chunk_tokens`; `shares` are the parts of a chunk's time that smaller ones took."""
        if tokens == 1:
            return self.step_s.at(past)
        known = [*shares, (chunk_tokens, 1.0)]
        low = (0, 0.0)
        for high in known:
            if tokens <= high[0]:
                part = low[1] + (high[1] - low[1]) * (tokens - low[0]) / (high[0] - low[0])
                return part * self.chunk_s.at(past)
            low = high
        raise ValueError(f"{tokens} tokens are more than a chunk")


@dataclass(frozen=True, slots=True)
class Pieces:
    """One end in one condition. `parts` are the heads here or the tails there, by k."""

    whole: Part
    parts: dict[int, Part]
    shares: tuple[tuple[int, float], ...]
    open_s: float
    """To open a session in a stage."""
    rates: Rates
    """As the product measures them, the edge's under this condition; the peer's when it began, beside nobody."""
    position_s: tuple[float, float]
    beside: tuple[tuple[float, float], ...] = ()
    """What a peer says of one job more beside answers, as the product measures it."""
    splice_s: Line = Line(0.0)
    """Over bytes of blocks."""


@dataclass
class KeptPieces:
    """Pieces of each end in each condition, in a file: what was measured is not measured again."""

    file: Path
    known: dict[tuple[str, float], Pieces] = field(default_factory=dict)

    async def get(self, key: tuple[str, float], measured: Callable[[], Awaitable[Pieces]]) -> Pieces:
        if key not in self.known:
            self.known[key] = await measured()
            self.file.write_bytes(pickle.dumps(self.known))
        return self.known[key]


@dataclass(frozen=True, slots=True)
class Template:
    """What both ends hold, and how it is loaded."""

    card: ModelCard
    variant: Variant
    settings: LoadSettings
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """All pieces: edges by their share of a core, peers by the answers that run beside."""

    template: Template
    facts: LoadedFacts
    stage_facts: dict[int, StageFacts]
    cuts: tuple[int, ...]
    edges: dict[float, Pieces]
    peers: dict[int, Pieces]
    hop_s: float
    """From one end to the other through the broker, without a link between."""
