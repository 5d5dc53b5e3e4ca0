"""What one user's memory holds that makes a reduction free: surprisals of stored texts, summaries of old turns."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.agent.memory.chunking import pieces
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.rolling import Cut
from edgeagent.core.memory import Conversation
from edgeagent.model.wording import words


@dataclass(frozen=True, slots=True)
class Stored:
    """`seen`: how often the user had had something forgotten when the conversation began; None: nobody knows."""

    memory: Memory
    user: str
    seen: int | None = None

    async def summary(self, conversation: bytes) -> str | None:
        return await self.memory.summary(self.user, conversation)

    async def since(self, cuts: Sequence[Cut]) -> int | None:
        """For `keep_summary`, before the summary is written; None: nothing of this conversation may be kept."""
        return await self.memory.since(self.user, self.seen, [cut.key for cut in cuts])

    async def keep_summary(self, cut: Cut, text: str, since: int) -> None:
        """Not when something was forgotten meanwhile."""
        about = Conversation(key=cut.key.hex(), num_messages=cut.num_messages)
        await self.memory.keep_summary(self.user, about, text, since)

    async def bits(self, document: str, sentences: Sequence[str]) -> list[tuple[float, ...] | None]:
        """Surprisals of the words of each sentence of a document that was stored (`memory add --file`).

        `sentences` joined are the document. None for those in a chunk that is not stored or was not measured.
        """
        parts = pieces(document)
        known = await self.memory.measures(self.user, [part.stored for part in parts])
        if not any(known):  # as of most documents
            return [None] * len(sentences)
        found: list[float | None] = []
        for part, measure in zip(parts, known, strict=True):
            num_words, num_before = num_of(part.text), num_of(part.path)
            is_whole = measure is not None and len(measure.bits) == num_before + num_words
            found += measure.bits[num_before:] if measure is not None and is_whole else [None] * num_words
        return _shared_out(found, sentences)


def num_of(text: str) -> int:
    """Words in a text."""
    return sum(1 for _ in words(text))


def _shared_out(found: Sequence[float | None], sentences: Sequence[str]) -> list[tuple[float, ...] | None]:
    """Words of the chunks, to the sentences in order: chunks lose white space only."""
    counts = [num_of(sentence) for sentence in sentences]
    if sum(counts) != len(found):  # a word so long that it was cut in two
        return [None] * len(sentences)
    shared: list[tuple[float, ...] | None] = []
    begin = 0
    for count in counts:
        part = found[begin : begin + count]
        told = tuple(value for value in part if value is not None)
        shared.append(told if len(told) == count else None)
        begin += count
    return shared
