"""Takes over the file of a stage that was cut on another machine: checked as what it says that it is, then copied.

A device that could never load a model, and has no room for its file, gets its head like this.
"""

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path

from edgeagent.core.cards import ModelCard, Variant
from edgeagent.core.errors import DownloadError, ModelFileError, RequestError
from edgeagent.core.stages import BEGIN_KEY, END_KEY, LAYERS_KEY, SOURCE_KEY, Cut
from edgeagent.model import files, making
from edgeagent.model.gguf_header import GgufHeader
from edgeagent.model.slicing import Sliced, check_cut, plan, read
from edgeagent.model.store import ModelStore

BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
TABLE = "token_embd.weight"
SHA256 = re.compile(r"[0-9a-f]{64}")


async def adopt(
    store: ModelStore, path: Path, *, model_id: str | None = None, variant: str | None = None, sha256: str | None = None
) -> Sliced:
    """The stage in `path` as a variant of the store, which has a copy of the file; `path` stays as it is.

    `model_id` and `variant` name what it was cut from where no hash that is known here tells. `sha256` is the file's
    own, if somebody told: nothing else shows that a weight was changed on the way.

    Raises ModelFileError for a file that is no whole stage or another model's, RequestError for an illegal cut or an
    unknown origin, ModelNotFoundError, DownloadError when there is no room.
    """
    header, num_bytes = await asyncio.to_thread(lambda: (_read(path), path.stat().st_size))
    cut, source = stage_in(header, path)
    card, base = await asyncio.to_thread(_origin, store, source, path, model_id, variant)
    wanted = plan(base, source, cut).model_copy(update={"sha256": sha256})
    _check_fits(header, cut, card, base, wanted, path)

    async def write(target: str) -> None:
        await asyncio.to_thread(_copy, path, Path(target))
        if await asyncio.to_thread(_read, Path(target)) != header:
            raise ModelFileError(f"{path} was changed while it was copied; adopt it again")

    stored = await making.place(store, card, wanted, num_bytes, write)
    if sha256 not in (None, stored.sha256):
        told = f"{card.id} {wanted.name} is here already, with sha256 {stored.sha256} and not {sha256}"
        raise ModelFileError(f"{told}; first run 'edgeagent models rm {card.id} --variant {wanted.name}'")
    return Sliced(stored, cut)


def stage_in(header: GgufHeader, path: Path) -> tuple[Cut, str]:
    """What the file says that it holds, and the hash of what it was cut from, if it does hold that. Pure.

    Raises ModelFileError for no stage, or one without the layers it names; RequestError for an illegal cut.
    """
    begin, end, layers, source = (header.metadata.get(key) for key in (BEGIN_KEY, END_KEY, LAYERS_KEY, SOURCE_KEY))
    if source is None:
        told = "it does not say what it was cut from; 'edgeagent models slice' makes stages"
        raise ModelFileError(f"{path} is no stage of a model: {told}, 'edgeagent models pull' fetches whole models")
    is_sound = isinstance(source, str) and SHA256.fullmatch(source)
    if not is_sound or not (type(begin) is int and type(end) is int and type(layers) is int):
        raise ModelFileError(
            f"{path} is no sound stage: its metadata edgeagent.stage is damaged; slice the model again"
        )
    try:
        cut = Cut.of(begin, end, layers)
    except RequestError as error:
        raise ModelFileError(f"{path} is no sound stage: {error}") from None
    check_cut(replace(header, layers=cut.layers), cut.begin, cut.end, str(path))
    if lack := _lack(header, cut):
        raise ModelFileError(f"{path} is no sound stage: {lack}; slice the model again")
    assert isinstance(source, str)
    return cut, source


def _lack(header: GgufHeader, cut: Cut) -> str | None:
    """What the stage should have and the file does not; None: nothing that its header can tell. Pure."""
    blocks: dict[int, set[str]] = {}
    for tensor in header.tensors:
        if found := BLOCK.fullmatch(tensor.name):
            blocks.setdefault(int(found[1]), set()).add(found[2])
    if header.layers != cut.num_blocks or blocks.keys() != set(range(cut.num_blocks)):
        return f"{cut.begin}:{cut.end} have {cut.num_blocks} layers, it says {header.layers} and has {len(blocks)}"
    if any(names != blocks[0] for names in blocks.values()):
        return "its layers do not have the same tensors"
    return None if any(tensor.name == TABLE for tensor in header.tensors) else "it has no token table"


def _read(path: Path) -> GgufHeader:
    """Raises ModelFileError, also for a file whose tensors are not all there."""
    try:
        return read(path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def _origin(
    store: ModelStore, source: str, path: Path, model_id: str | None, variant: str | None
) -> tuple[ModelCard, Variant]:
    """The variant whose file has that hash; else the one that is named, if nothing is known of its own."""
    told = f"{path} was cut from the file with sha256 {source[:12]}…"
    cards = [card for card in store.registry.cards if card.architecture is not None]
    held = ((card, each) for card in cards for each in card.whole_variants if _sha256(store, card, each) == source)
    found = next(held, None)
    if found is not None:
        card, own = found
        if model_id not in (None, card.id) or variant not in (None, own.name):
            raise ModelFileError(f"{told}, which is {card.id} {own.name}; name nothing else")
        return found
    if model_id is None or variant is None:
        named = "name the model with --model ID --variant NAME"
        raise RequestError(f"{told}, and no model here is known to have it; {named}")
    card, own = store.registry.variant(model_id, variant)
    if card.architecture is None or own.is_stage or _sha256(store, card, own) is not None:
        raise ModelFileError(f"{told}, and {card.id} {own.name} is another file; name its own model")
    return card, own


def _sha256(store: ModelStore, card: ModelCard, variant: Variant) -> str | None:
    """Of a variant's file, by its card or as it was pinned when it was first here."""
    if variant.sha256 is not None:
        return variant.sha256
    known = files.recall(store.path(card, variant))
    return known.sha256 if known else None


def _check_fits(header: GgufHeader, cut: Cut, card: ModelCard, base: Variant, wanted: Variant, path: Path) -> None:
    """Raises ModelFileError for a stage of another model than the card's."""
    layers = card.shape(base).layers
    if cut.layers != layers:
        raise ModelFileError(
            f"{path} was cut from a model of {cut.layers} layers, and {card.id} has {layers}; remove it"
        )
    files.check_shape(header, card, wanted, path)


def _copy(path: Path, target: Path) -> None:
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        raise DownloadError(f"{path} cannot be copied to {target.parent} ({error.strerror}); check the disk") from None
