"""The newest vectors of an embedder: a question is compared with memories, tools and sentences, and embedded once."""

from collections import OrderedDict

from edgeagent.core.memory import Embedder, Vector

MAX_VECTORS = 256
"""384 KiB of 384 values each."""
MAX_CHARS = 2_000
"""Longer texts are not questions, and would be kept for nothing."""


class RecentVectors:
    """Implements `core.memory.Embedder` over another one, whose vectors depend on the text alone."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._recent: OrderedDict[str, Vector] = OrderedDict()

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    async def embed(self, texts: list[str]) -> list[Vector]:
        """One unit vector a text, in order. Raises what the other embedder raises."""
        known = {text: self._recent[text] for text in texts if text in self._recent}
        if unknown := [text for text in dict.fromkeys(texts) if text not in known]:
            known |= zip(unknown, await self._embedder.embed(unknown), strict=True)
        self._keep({text: vector for text, vector in known.items() if len(text) <= MAX_CHARS})
        return [known[text] for text in texts]

    def _keep(self, vectors: dict[str, Vector]) -> None:
        for text, vector in vectors.items():
            self._recent[text] = vector
            self._recent.move_to_end(text)
        while len(self._recent) > MAX_VECTORS:
            self._recent.popitem(last=False)
