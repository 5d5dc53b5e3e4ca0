"""Makes a smaller variant on this machine: in a worker, under a temporary name, verified before it counts."""

import asyncio
from collections.abc import Awaitable, Callable

from edgeagent.core.cards import ModelCard, QuantizedSource, Variant
from edgeagent.core.errors import RequestError
from edgeagent.execution.supervisor import Worker
from edgeagent.model.store import ModelStore, StoredVariant

STALL_S = 3600.0
"""The quantiser says nothing until it is done; a Pi takes minutes for a model of a few billion parameters."""
Q8_0_BYTES_PER_PARAMETER = 34 / 32

Spawn = Callable[[], Awaitable[Worker]]


async def quantize(store: ModelStore, model_id: str, variant: str, spawn: Spawn, threads: int) -> StoredVariant:
    """The variant, made from the one its card names (fetched when missing), or found when it is here already.

    Raises RequestError for a variant that is fetched rather than made, and whatever fetching, the worker and
    the check of the result raise.
    """
    card, wanted = store.registry.variant(model_id, variant)
    if not isinstance(wanted.source, QuantizedSource):
        command = f"edgeagent models pull {card.id} --variant {wanted.name}"
        raise RequestError(f"{card.id} {wanted.name} is fetched, not made; run '{command}'")
    base = await store.ensure(model_id, wanted.source.variant)
    async with store.locked(card):
        if await asyncio.to_thread(store.find, model_id, variant) is None:
            store.require_disk(max(base.bytes, int(card.parameters * Q8_0_BYTES_PER_PARAMETER)))
            await _make(store, card, wanted, base, spawn, threads)
            await store.admit(card, wanted)
    made = await asyncio.to_thread(store.find, model_id, variant)
    assert made is not None  # admitted above
    return made


async def _make(
    store: ModelStore, card: ModelCard, wanted: Variant, base: StoredVariant, spawn: Spawn, threads: int
) -> None:
    target = str(store.partial(card, wanted))
    worker = await spawn()
    try:
        await worker.call(
            "quantize", stall_s=STALL_S, source=str(base.path), target=target, kind=wanted.name, threads=threads
        )
    finally:
        await worker.close()
