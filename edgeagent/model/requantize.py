"""Makes, at first use, the form of an ONNX encoder that computes in int8 (ADR 0013)."""

import logging

from edgeagent.core.cards import RequantizedSource
from edgeagent.core.errors import DownloadError, EngineError, ModelFileError
from edgeagent.execution.confine import HOSTILE_FILE
from edgeagent.execution.supervisor import Worker
from edgeagent.model import making
from edgeagent.model.making import Spawn
from edgeagent.model.store import ModelStore, StoredVariant

log = logging.getLogger(__name__)


async def spawn_onnx() -> Worker:
    return await Worker.spawn("onnx", limits=HOSTILE_FILE)


async def ensure_computing_in_int8(store: ModelStore, model_id: str, spawn: Spawn) -> StoredVariant:
    """The variant that the card lists as made so, found or made; the card's first one where that cannot be.

    Raises what fetching that one raises.
    """
    card = store.registry.card(model_id)
    wanted = next((v for v in card.variants if isinstance(v.source, RequantizedSource)), None)
    if wanted is None:
        return await store.ensure(model_id)
    try:
        if stored := store.find(model_id, wanted.name):
            return stored
        assert isinstance(wanted.source, RequantizedSource)
        base = await store.ensure(model_id, wanted.source.variant)
        async with making.one_worker(spawn) as worker:

            async def write(target: str) -> None:
                await making.run(worker, "requantize", stage="requantising", source=str(base.path), target=target)

            return await making.make(store, base, wanted, wanted.bytes or base.bytes, write)
    except (DownloadError, EngineError, ModelFileError) as error:
        log.warning("the published encoder is used as it is", extra={"model": model_id, "error": str(error)})
        return await store.ensure(model_id)
