"""What a user asks of the variant that is chosen. Pure."""

from dataclasses import dataclass
from typing import Literal

from edgeagent.core.cards import KvType

CHUNK_TOKENS = 64
TPOT_S = 0.25
"""Four tokens a second, about three words: a little slower than people read (238 words a minute: Brysbaert, Journal of
Memory and Language 109, 2019)."""

Objective = Literal["latency", "energy", "quality"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a variant must respect. `quality_floor` is the highest perplexity allowed (None: any).

    `objective`: `latency` wants the targets reached, then quality; `energy` the same with the least energy; `quality`
    wants the best quality that fits, however slow.
    """

    memory_bytes: int
    ttft_s: float
    context_tokens: int
    kv_type: KvType
    quality_floor: float | None = None
    chunk_tokens: int = CHUNK_TOKENS
    tpot_s: float = TPOT_S
    min_context_tokens: int = 0
    """A context may be shortened down to this to fit; 0: half of `context_tokens`."""
    coarse_cache: bool = False
    """Whether a q4_0 cache may be used where no better one fits."""
    objective: Objective = "latency"
    threads: int | None = None
    """A fixed number; None: the fastest known."""
    budget_bytes: int | None = None
    """What all loaded models may take together; None: as much as there is."""
