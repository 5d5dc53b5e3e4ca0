"""Memories as the rest of the house sees them, and the one thing a memory needs from an engine."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict


class MemoryItem(BaseModel):
    """One stored memory. Times are Unix seconds; `kind` is `note`, `document` or `turn`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    user: str
    kind: str
    text: str
    source: str
    created_at: float


class MemoryHit(BaseModel):
    """A memory found by a query; a higher score is more relevant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: MemoryItem
    score: float


class MemoryStats(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    memories: int
    documents: int
    bytes: int
    path: str
    sqlite_version: str
    vector_version: str


Vector = bytes
"""`dimensions` little-endian float32 values of unit length: what sqlite-vec stores, opaque to the daemon."""


class Embedder(Protocol):
    """Turns texts into unit vectors of `dimensions` float32 values."""

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: list[str]) -> list[Vector]:
        """One vector a text, in order. Raises EngineError."""
        ...
