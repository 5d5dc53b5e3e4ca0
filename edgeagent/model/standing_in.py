"""Which model of this machine answers where only a head of the wanted one is here, and its peer is not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import EdgeAgentError, ModelNotFoundError
from edgeagent.model.pool import ModelPool
from edgeagent.model.registry import Registry
from edgeagent.model.resident import Resident


class StandingIn:
    """The default model where it is whole here, else the largest that fits, chat models before others."""

    def __init__(self, pool: ModelPool, registry: Registry, default_model: str) -> None:
        self._pool = pool
        self._registry = registry
        self._default_model = default_model

    @contextlib.asynccontextmanager
    async def lease(self, lost: Resident) -> AsyncIterator[Resident]:
        """In use while inside. Raises ModelNotFoundError when there is none, else what the last one could not be used
        for."""
        lack: EdgeAgentError = ModelNotFoundError(
            "no other model is here to answer; pull one, or ask again when a peer with the rest is back"
        )
        async with contextlib.AsyncExitStack() as stack:
            for model_id in self._order(lost.card.id):
                try:
                    if not await asyncio.to_thread(self._pool.has_whole, model_id):  # it may have to hash files
                        continue
                    found = await stack.enter_async_context(self._pool.lease(model_id))
                except EdgeAgentError as error:
                    lack = error
                    continue
                if found.head is None:
                    yield found
                    return
                await stack.aclose()
            raise lack

    def _order(self, lost: str) -> list[str]:
        cards = [c for c in self._registry.cards if c.architecture is not None and c.id != lost]
        return [card.id for card in sorted(cards, key=self._rank)]

    def _rank(self, card: ModelCard) -> tuple[bool, bool, int]:
        return (card.id != self._default_model, card.kind != "chat", -card.parameters)
