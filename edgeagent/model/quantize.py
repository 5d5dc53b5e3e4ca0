"""Makes a smaller variant on this machine: in a worker, under a temporary name, verified before it counts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.cards import MadeSource, ModelCard, QuantizedSource, Variant
from edgeagent.core.errors import RequestError
from edgeagent.execution.supervisor import Worker
from edgeagent.model import making
from edgeagent.model.making import OnStep, Spawn, silent
from edgeagent.model.store import ModelStore, StoredVariant

Q8_0_BYTES_PER_PARAMETER = 34 / 32
IMATRIX_SUFFIX = "-imatrix"


@dataclass(frozen=True, slots=True)
class Guidance:
    """What tells the quantiser which weights matter: a text to compute it from, or a file that was computed before."""

    sha256: str
    text: bytes = b""
    file: str = ""
    chunks: int = 0

    @classmethod
    def from_text(cls, text: bytes, chunks: int) -> "Guidance":
        return cls(hashlib.sha256(text).hexdigest(), text=text, chunks=chunks)

    @classmethod
    def from_file(cls, path: Path) -> "Guidance":
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), file=str(path.resolve()))


async def quantize(
    store: ModelStore,
    model_id: str,
    kind: str,
    spawn: Spawn,
    threads: int,
    *,
    base: str | None = None,
    guidance: Guidance | None = None,
    on_step: OnStep = silent,
) -> StoredVariant:
    """The variant of llama.cpp's file type `kind`, made from `base` (fetched when missing), or found when it is here.

    Without `base`: what the card names, else the best file that is here. With guidance the variant is called
    `<kind>-imatrix`. Raises RequestError for a variant that is fetched rather than made or a type that is unknown,
    and whatever fetching, the worker and the check of the result raise.
    """
    card = store.registry.card(model_id)
    if card.architecture is None:
        raise RequestError(f"{card.id} is no GGUF model; only those can be quantised")
    if guidance is None:
        _refuse_fetched(card, kind)
    async with making.one_worker(spawn) as worker:
        kind = await _known_kind(worker, kind)
        wanted = plan(card, kind, base or _base(store, card, kind), guidance)
        assert isinstance(wanted.source, QuantizedSource)
        source = await store.ensure(model_id, wanted.source.variant)
        guide: dict[str, object] = {}
        if guidance:
            guide = {"imatrix": guidance.file, "chunks": guidance.chunks, "context_tokens": making.CALIBRATION_WINDOW}

        async def write(target: str) -> None:
            text = [guidance.text] if guidance and guidance.text else []
            job = {"source": str(source.path), "target": target, "kind": kind, "threads": threads}
            await making.run(worker, "quantize", text, stage="quantising", on_step=on_step, **job, **guide)

        needed = max(source.bytes, int(card.parameters * Q8_0_BYTES_PER_PARAMETER))
        return await making.make(store, source, wanted, needed, write)


def _refuse_fetched(card: ModelCard, kind: str) -> None:
    listed = card.variant(kind)
    if listed and not isinstance(listed.source, MadeSource):
        command = f"edgeagent models pull {card.id} --variant {listed.name}"
        raise RequestError(f"{card.id} {listed.name} is fetched, not made; run '{command}'")


async def _known_kind(worker: Worker, kind: str) -> str:
    """The type as llama.cpp writes it. Raises RequestError with the list of types."""
    facts = await making.run(worker, "kinds", stage="asking")
    kinds = facts["kinds"]
    assert isinstance(kinds, list)
    if kind.upper() not in kinds:
        raise RequestError(f"'{kind}' is no type that llama.cpp makes; use one of {', '.join(kinds)}")
    return kind.upper()


def _base(store: ModelStore, card: ModelCard, kind: str) -> str:
    listed = card.variant(kind)
    if listed and isinstance(listed.source, QuantizedSource):
        return listed.source.variant
    return making.best_base(store, card)


def plan(card: ModelCard, kind: str, base: str, guidance: Guidance | None) -> Variant:
    """The variant that quantising makes: the card's own where it lists just that, else a local one. Pure."""
    found = card.variant(base)
    if found is None:
        raise RequestError(f"{card.id} has no variant '{base}'; see 'edgeagent models show {card.id}'")
    if found.is_stage:
        raise RequestError(f"{card.id} {base} is only a stage of the model; quantise the whole, then slice that")
    if found.file_type == kind:
        raise RequestError(f"{card.id} {base} is of type {kind} already; name a finer one with --variant")
    source = QuantizedSource(kind="quantized", variant=base, imatrix=guidance.sha256 if guidance else None)
    name = kind + (f"-d{found.layers}" if found.layers else "") + (IMATRIX_SUFFIX if guidance else "")
    listed = card.variant(name)
    if listed and listed.source == source:
        return listed
    file = making.file_name(card.variants[0], name)
    return Variant(name=name, file=file, quantization=kind, layers=found.layers, source=source)
