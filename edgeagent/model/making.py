"""What quantising, pruning, cutting and adopting share: a file grows aside, and counts when it is verified."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from edgeagent.core.cards import MadeSource, ModelCard, Variant
from edgeagent.core.errors import RequestError
from edgeagent.execution.channel import Buffers
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.store import ModelStore, StoredVariant

STALL_S = 3600.0
"""A board may take minutes for one tensor of a model of a few billion parameters, and says nothing meanwhile."""
CALIBRATION_WINDOW = 512

Spawn = Callable[[], Awaitable[Worker]]
OnStep = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""


def silent(_stage: str, _done: int, _total: int) -> None: ...


async def run(
    worker: Worker, op: str, bulk: Buffers = (), *, stage: str, on_step: OnStep = silent, **params: object
) -> dict[str, object]:
    """One job of a worker, its steps reported; the facts of its reply."""
    facts: dict[str, object] = {}
    async with contextlib.aclosing(worker.stream(op, bulk, stall_s=STALL_S, **params)) as messages:
        async for facts, _ in messages:
            if "done" in facts:
                on_step(str(facts.get("stage", stage)), int(str(facts["done"])), int(str(facts["total"])))
    return facts


@contextlib.asynccontextmanager
async def one_worker(spawn: Spawn) -> AsyncIterator[Worker]:
    """A worker of its own: ending it ends whatever it does, and frees what it took."""
    worker = await spawn()
    try:
        yield worker
    finally:
        await worker.close()


def best_base(store: ModelStore, card: ModelCard) -> str:
    """The variant that others are made from: of those that are fetched, the largest that is here, else the first."""
    fetched = [v for v in card.variants if not isinstance(v.source, MadeSource)]
    if not fetched:
        raise RequestError(f"{card.id} has no variant that can be fetched; name one with --variant")
    here = [s for v in fetched if (s := store.find(card.id, v.name))]
    return max(here, key=lambda s: s.bytes).variant.name if here else fetched[0].name


def file_name(like: Variant, name: str) -> str:
    """The file of variant `name`, called as that of `like` is."""
    own = re.escape(like.name)
    stem = re.sub(rf"[.-]{own}$", "", like.file.removesuffix(".gguf"), flags=re.IGNORECASE)
    return f"{stem}.{name}.gguf"


async def make(
    store: ModelStore,
    base: StoredVariant,
    wanted: Variant,
    needed_bytes: int,
    write: Callable[[str], Awaitable[None]],
) -> StoredVariant:
    """As `place`, of what is made from `base`, which stays meanwhile."""
    with contextlib.closing(store.hold(base)):
        return await place(store, base.card, wanted, needed_bytes, write, spare=base.variant)


async def place(
    store: ModelStore,
    card: ModelCard,
    wanted: Variant,
    needed_bytes: int,
    write: Callable[[str], Awaitable[None]],
    *,
    spare: Variant | None = None,
) -> StoredVariant:
    """The variant, found or put there: `write(path)` fills a file aside, which is verified before it counts.

    The folder's quota holds for it as for what is fetched; `spare` is not removed for it.

    A variant that the card does not list joins the model's overlay. Raises what `write` and the check raise; nothing
    of the file is then left.
    """
    async with store.locked(card):
        if stored := await asyncio.to_thread(_found, store, card, wanted):
            return stored
        partial = store.partial(card, wanted)
        await asyncio.to_thread(store.space.make_room, card, needed_bytes, spare)
        try:
            await write(str(partial))
            await store.admit(card, wanted)
        finally:
            partial.unlink(missing_ok=True)
        await asyncio.to_thread(_keep, store, card, wanted)
    stored = await asyncio.to_thread(store.find, card.id, wanted.name)
    assert stored is not None  # admitted above
    return stored


def _found(store: ModelStore, card: ModelCard, wanted: Variant) -> StoredVariant | None:
    """The variant, if it is here and was made in the very same way. Raises RequestError for a namesake."""
    known = store.registry.card(card.id).variant(wanted.name)
    if known is None or (stored := store.find(card.id, wanted.name)) is None:
        return None
    if known.source != wanted.source:
        command = f"edgeagent models rm {card.id} --variant {wanted.name}"
        raise RequestError(f"{card.id} {wanted.name} is here, made from something else; first run '{command}'")
    return stored


def _keep(store: ModelStore, card: ModelCard, wanted: Variant) -> None:
    if store.registry.shipped(card.id).variant(wanted.name) is None:
        current = overlay.load(store.folder, card.id)
        overlay.save(store.folder, card.id, current.with_variant(wanted))
    overlay.refresh(store.registry, store.folder, card.id)
