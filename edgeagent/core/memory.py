"""Memories as the rest of the house sees them, and what a memory needs from an engine."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """What facts, skills and experiences carry beside their text.

    Of one topic, one holds at a time. `body` is a fact's value, a skill's steps (one a line), what was done; `worth`
    is the mean of the judgements, from -1 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    body: str
    worth: float = Field(default=0.0, ge=-1, le=1)
    num_judged: int = Field(default=0, ge=0, lt=2**31)
    valid_from: float
    valid_until: float | None = None


class Conversation(BaseModel):
    """What a summary of old turns stands for: the first `num_messages` messages of a conversation, known by a hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern="^[0-9a-f]{32}$")
    num_messages: int = Field(ge=1, lt=2**31)


class MemoryItem(BaseModel):
    """One stored memory. Times are Unix seconds; `user` is its namespace: a user, or `user/agent`.

    `kind` is `note`, `document`, `turn`, `event` or `summary`; or, with a record, `fact`, `skill` or `experience`. A
    summary with a `conversation` stands for its old turns (reduction L4), and is not recalled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    user: str
    kind: str
    text: str
    source: str
    created_at: float
    record: Record | None = None
    conversation: Conversation | None = None


class MemoryHit(BaseModel):
    """A memory found by a query; a higher score is more relevant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: MemoryItem
    score: float


class MemoryStats(BaseModel):
    """Of one user. `summaries`, of conversations' old turns, are not among the `memories`; `bytes` are the file's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    memories: int
    summaries: int
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


class WordMatcher(Protocol):
    """Compares a question with texts word by word (late interaction)."""

    async def match_words(self, question: str, texts: list[str]) -> list[tuple[float, ...]]:
        """Of each text, in order: for each token of the question the greatest cosine with a token of the text.

        Raises EngineError.
        """
        ...
