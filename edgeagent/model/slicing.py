"""Cuts a model into stages: which cuts are legal, and files of a head, a middle, a tail or the output head alone."""

from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.cards import SlicedSource, Variant
from edgeagent.core.errors import ModelFileError, RequestError
from edgeagent.core.stages import BEGIN_KEY, END_KEY, LAYERS_KEY, SOURCE_KEY, Cut, Padding
from edgeagent.model import making
from edgeagent.model.gguf_header import GgufHeader, SkippedArray, read_header
from edgeagent.model.making import OnStep, Spawn, silent
from edgeagent.model.store import ModelStore, StoredVariant

PERIODS = {"llama": 1, "qwen2": 1, "qwen3": 1, "qwen3moe": 1, "phi3": 1, "smollm3": 4, "gemma3": 6}
"""Families whose layers need nothing of another layer but its output, and after how many their kinds of layers repeat.

Each was cut at every legal place with random weights and gave the whole model's bits (tests/execution/test_stages.py);
SmolLM3 rotates no positions in every fourth layer, Gemma 3 attends globally in every sixth.
"""
WINDOWED = frozenset({"gemma3"})
"""Those whose windows the period accounts for."""
ACROSS_LAYERS = (
    "attention.shared_kv_layers",
    "embedding_length_per_layer_input",
    "nextn_predict_layers",
    "ssm.state_size",
)
"""Metadata of a file whose layers share a cache, an input or a state, by the name behind the architecture's."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """The new variant, and what it holds."""

    stored: StoredVariant
    cut: Cut


async def slice_variant(
    store: ModelStore,
    model_id: str,
    begin: int,
    end: int,
    spawn: Spawn,
    *,
    base: str | None = None,
    on_step: OnStep = silent,
) -> Sliced:
    """A variant of layers `[begin, end)`, made from `base` (fetched when missing; default: the best that is here).

    Raises RequestError for an illegal cut, with the legal ones, and what fetching, worker and check raise.
    """
    card = store.registry.card(model_id)
    if card.architecture is None:
        raise RequestError(f"{card.id} has no layers to cut; slice a chat or base model")
    _, chosen = store.registry.variant(model_id, base or making.best_base(store, card))
    if chosen.is_stage:
        raise RequestError(f"{card.id} {chosen.name} is a stage already; slice the variant it was made from")
    source = await store.ensure(model_id, chosen.name)
    cut = check_cut(read(source.path), begin, end, f"{card.id} {chosen.name}")
    wanted = plan(source.variant, source.sha256, cut)

    async def write(target: str) -> None:
        async with making.one_worker(spawn) as worker:
            await making.run(
                worker,
                "slice",
                stage="writing",
                on_step=on_step,
                source=str(source.path),
                target=target,
                begin=begin,
                end=end,
                sha256=source.sha256,
            )

    return Sliced(await making.make(store, source, wanted, source.bytes, write), cut)


def stored_stages(store: ModelStore, model_id: str) -> list[StoredVariant]:
    """The model's stages whose files are here. Raises ModelNotFoundError, ModelFileError."""
    names = [v.name for v in store.registry.card(model_id).variants if v.is_stage]
    return [stored for name in names if (stored := store.find(model_id, name))]


def stage_of(stored: StoredVariant) -> tuple[Cut, str]:
    """What a stage's file holds, and the hash of the whole that it was cut from, as the file itself says.

    Raises ModelFileError for one that is no stage, or another one than its variant.
    """
    source, metadata = stored.variant.source, read(stored.path).metadata
    begin, end, layers = (metadata.get(key) for key in (BEGIN_KEY, END_KEY, LAYERS_KEY))
    if isinstance(source, SlicedSource) and isinstance(layers, int):
        told = (begin, end, metadata.get(SOURCE_KEY))
        if told == (source.begin, source.end, source.variant_sha256):
            return Cut.of(source.begin, source.end, layers), source.variant_sha256
    raise ModelFileError(f"{stored.path} is not the stage {stored.variant.name}; slice the model again")


def padding_of(path: Path) -> Padding:
    """What the file of a head or a middle is loaded with. Raises ModelFileError."""
    header, block = read(path), "blk.0."
    layer = tuple((t.name.removeprefix(block), t.shape) for t in header.tensors if t.name.startswith(block))
    return Padding(
        architecture=header.architecture, layers=header.layers, num_tensors=len(header.tensors), tensors=layer
    )


def read(path: Path) -> GgufHeader:
    """The file's header, by the bounded reader. Raises ModelFileError."""
    with path.open("rb") as file:
        return read_header(file, str(path))


def legal_cuts(header: GgufHeader, label: str) -> tuple[int, ...]:
    """Where the file `label` may be cut: how many layers its head may have.

    Raises RequestError, with the reason, when it may be cut nowhere. Pure.
    """
    if reason := fault(header):
        raise RequestError(f"{label} cannot be cut into stages: {reason}; run it whole")
    return tuple(range(PERIODS[header.architecture], header.layers, PERIODS[header.architecture]))


def fault(header: GgufHeader) -> str | None:
    """Why no cut of the file is known to be exact; None: some are. Pure."""
    family, window = header.architecture, header.sliding_window
    period = PERIODS.get(family)
    if period is None:
        return f"whether a layer of the architecture '{family}' needs more of others than their output is not known"
    if key := next((key for key in ACROSS_LAYERS if header.metadata.get(f"{family}.{key}")), None):
        return f"its layers are not independent ({family}.{key})"
    pattern = header.metadata.get(f"{family}.attention.sliding_window_pattern", period)
    if isinstance(pattern, tuple | SkippedArray) or pattern != period:
        return "its windows follow a pattern of its own"
    if window is not None and window < header.context_tokens and family not in WINDOWED:
        return f"which of its layers see only {window} tokens is not known"
    if period >= header.layers:
        return f"its {header.layers} layers are one group of {period}"
    return None


def check_cut(header: GgufHeader, begin: int, end: int, label: str) -> Cut:
    """Raises RequestError, with the legal cuts, unless these layers are a stage of the file. Pure."""
    cuts, layers = legal_cuts(header, label), header.layers
    borders = (0, *cuts, layers)
    is_part = begin in borders and end in borders and begin < end and (begin, end) != (0, layers)
    if is_part or begin == end == layers:
        return Cut.of(begin, end, layers)
    raise RequestError(
        f"{label} has no stage {begin}:{end}; legal are 0:K, K:{layers} and K:L with K and L out of"
        f" {', '.join(map(str, cuts))}, and {layers}:{layers} for the output head alone"
    )


def plan(base: Variant, sha256: str, cut: Cut) -> Variant:
    """The local variant that slicing makes. Pure."""
    name = f"{base.name}-{cut.begin}to{cut.end}"
    return Variant(
        name=name,
        file=making.file_name(base, name),
        quantization=base.file_type,
        layers=cut.num_blocks,
        source=SlicedSource(kind="sliced", variant=base.name, variant_sha256=sha256, begin=cut.begin, end=cut.end),
    )
