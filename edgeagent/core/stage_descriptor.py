"""What two stages of a model must agree on before they work together."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgeagent.core.cards import KvType, Sha256
from edgeagent.core.errors import PeerError
from edgeagent.core.stages import HiddenType

MAX_PLANES = 2048
MAX_TOLD = 160
"""Characters of a value that somebody else may put into an error message."""


class StageDescriptor(BaseModel):
    """What two stages must have in common for their work to add up to the whole model's, bit for bit.

    Both ends make theirs from what they have loaded, exchange them, and go on only if they are equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(max_length=64)
    variant_sha256: Sha256
    """Of the whole file."""
    k: int = Field(gt=0)
    """Where they meet: the first has layers up to `k`, the other those from there on."""
    layers: int = Field(gt=1)
    width: int = Field(gt=0)
    hidden: HiddenType
    kv_type: KvType
    kv_planes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(max_length=MAX_PLANES)]
    """Row bytes of K of each layer from `k` on, then of V; empty where the cache cannot be exchanged."""
    flash_attention: bool
    extra_buffers: bool
    chunk_tokens: int = Field(gt=0)
    threads: int = Field(ge=0)
    """0: their number changes no bit."""
    engine: str = Field(max_length=64)
    """Build of the engine: its release and a digest of its code."""
    system: str = Field(max_length=2048)
    """Instruction sets and switches, as the engine reports them."""

    def behind(self, k: int) -> "StageDescriptor":
        """Of the same model, where its layers from `k` on begin. Raises ValueError for a `k` before these layers."""
        skipped, half = k - self.k, len(self.kv_planes) // 2
        if skipped < 0:
            raise ValueError(f"layers from {k} on do not begin behind {self.k}")
        planes = self.kv_planes[skipped:half] + self.kv_planes[half + skipped :]
        return self.model_copy(update={"k": k, "kv_planes": planes})

    def check_same(self, theirs: "StageDescriptor") -> None:
        """Raises PeerError, naming the first difference."""
        ours = self.model_dump()
        for key, value in theirs.model_dump().items():
            if value != ours[key]:
                here, there = (repr(each)[:MAX_TOLD] for each in (ours[key], value))
                raise PeerError(f"the stages do not fit: {key} is {here} here and {there} there; use another plan")
