"""Depth pruning: leaves out the layers that change least what passes through them (ShortGPT, arXiv:2403.03853)."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.core.cards import Architecture, ModelCard, PrunedSource, Variant
from edgeagent.core.errors import RequestError
from edgeagent.model import making
from edgeagent.model.making import OnStep, Spawn, silent
from edgeagent.model.store import ModelStore, StoredVariant

CHUNKS = 8
LEAST_KEPT = 0.5
"""A guard against a misread number (`--layers` counts what stays), no finding: ShortGPT leaves out about a quarter."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The new variant, and the influence of every layer of the one it was made from."""

    stored: StoredVariant
    dropped: tuple[int, ...]
    influence: tuple[float, ...]


async def prune(
    store: ModelStore,
    model_id: str,
    keep: int,
    text: bytes,
    spawn: Spawn,
    threads: int,
    *,
    base: str | None = None,
    on_step: OnStep = silent,
) -> Pruned:
    """A variant of `keep` layers, without those of least influence on `text`.

    Raises RequestError for a depth that the model cannot have, and what fetching, worker and check raise.
    """
    card = store.registry.card(model_id)
    _, chosen = store.registry.variant(model_id, base or making.best_base(store, card))
    check_depth(card, chosen, keep)
    source = await store.ensure(model_id, chosen.name)
    async with making.one_worker(spawn) as worker:
        facts = await making.run(
            worker,
            "influence",
            [text],
            stage="measuring",
            on_step=on_step,
            path=str(source.path),
            chunks=CHUNKS,
            context_tokens=making.CALIBRATION_WINDOW,
            threads=threads,
        )
    influence = facts["influence"]
    assert isinstance(influence, list)
    dropped = choose(influence, keep, pattern(card.shape(source.variant)))
    wanted = plan(source.variant, dropped, keep)

    async def write(target: str) -> None:
        async with making.one_worker(spawn) as worker:
            await making.run(
                worker,
                "prune",
                stage="writing",
                on_step=on_step,
                source=str(source.path),
                target=target,
                dropped=list(dropped),
            )

    stored = await making.make(store, source, wanted, source.bytes, write)
    return Pruned(stored, dropped, tuple(influence))


def pattern(shape: Architecture) -> int:
    """Layers come in groups of so many: the period of windows and other kinds of layers, 1 where all are alike."""
    return shape.cut_step or shape.window_pattern or 1


def check_depth(card: ModelCard, variant: Variant, keep: int) -> None:
    """Raises RequestError when a file of `keep` layers cannot be made, or could not answer."""
    if card.architecture is None:
        raise RequestError(f"{card.id} has no layers to leave out; prune a chat or base model")
    if variant.is_stage:
        raise RequestError(f"{card.id} {variant.name} is only a stage of the model; prune the whole")
    if variant.layers is not None:
        raise RequestError(f"{card.id} {variant.name} is pruned already; prune the variant it was made from")
    layers, step = card.architecture.layers, pattern(card.architecture)
    depths = [n for n in range(layers - step, 0, -step) if n >= layers * LEAST_KEPT]
    if keep not in depths:
        possible = ", ".join(map(str, depths)) or "none"
        raise RequestError(f"{card.id} has {layers} layers and cannot be cut to {keep}; --layers may be {possible}")


def choose(influence: Sequence[float], keep: int, step: int = 1) -> tuple[int, ...]:
    """The layers to leave out: whole groups of `step`, those with the smallest mean influence. Pure.

    A last group that is not whole stays. Of equals the later goes: it has less to pass on its error to.
    """
    groups = [range(begin, begin + step) for begin in range(0, len(influence) - step + 1, step)]
    ranked = sorted(groups, key=lambda group: (sum(influence[i] for i in group), -group.start))
    chosen = ranked[: (len(influence) - keep) // step]
    return tuple(sorted(layer for group in chosen for layer in group))


def plan(base: Variant, dropped: tuple[int, ...], keep: int) -> Variant:
    """The local variant that pruning makes. Pure."""
    name = f"{base.name}-d{keep}"
    return Variant(
        name=name,
        file=making.file_name(base, name),
        quantization=base.file_type,
        layers=keep,
        source=PrunedSource(kind="pruned", variant=base.name, dropped=dropped),
    )
