"""Stages that were cut elsewhere: taken over by a store that never had the whole, refused where they are not what they
say."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.errors import ModelFileError, RequestError
from edgeagent.core.stages import BEGIN_KEY, END_KEY, LAYERS_KEY, SOURCE_KEY, Cut
from edgeagent.model import overlay
from edgeagent.model.adopting import adopt, stage_in
from edgeagent.model.gguf_header import GgufHeader, Value
from edgeagent.model.registry import Registry
from edgeagent.model.slicing import Sliced, read, slice_variant, stage_of, stored_stages
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama

MODEL, K, LAYERS = "smollm2-135m-instruct", 2, 30


@pytest.fixture(scope="module")
def cut_there(embedded_store: ModelStore, smollm2: StoredVariant) -> Sliced:
    """A head, on the machine that has the whole."""
    return asyncio.run(slice_variant(embedded_store, MODEL, 0, K, spawn_llama, base=smollm2.variant.name))


@pytest.fixture
def carried(cut_there: Sliced, tmp_path: Path) -> Path:
    return Path(shutil.copy(cut_there.stored.path, tmp_path / "carried.gguf"))


@pytest.fixture
def here(embedded_store: ModelStore, tmp_path: Path) -> Iterator[ModelStore]:
    """A store with nothing in it; nothing is left aside in it, whatever happened."""
    yield store_in(tmp_path / "models", embedded_store)
    assert not list((tmp_path / "models").rglob(".partial/*.gguf"))


def store_in(folder: Path, like: ModelStore) -> ModelStore:
    cards = Registry(like.registry.shipped(card.id) for card in like.registry.cards)
    return ModelStore(folder, overlay.lay_over(cards, folder), like._fetcher)


def test_stage_cut_elsewhere_is_known_by_its_source_and_found_again(
    carried: Path, here: ModelStore, cut_there: Sliced
) -> None:
    made = asyncio.run(adopt(here, carried, sha256=cut_there.stored.sha256))
    assert (made.cut, made.stored.variant.source) == (cut_there.cut, cut_there.stored.variant.source)
    assert made.stored.path.read_bytes() == carried.read_bytes()
    again = store_in(here.folder, here)
    assert stored_stages(again, MODEL) == [made.stored]
    assert stage_of(made.stored) == stage_of(cut_there.stored)
    assert asyncio.run(adopt(again, carried)).stored == made.stored


def test_file_that_was_changed_on_the_way_is_told_by_its_hash(
    carried: Path, here: ModelStore, cut_there: Sliced
) -> None:
    content = bytearray(carried.read_bytes())
    content[-1000] ^= 1
    carried.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"expected {cut_there.stored.sha256}"):
        asyncio.run(adopt(here, carried, sha256=cut_there.stored.sha256))
    assert here.find(MODEL) is None
    asyncio.run(adopt(here, carried))
    with pytest.raises(ModelFileError, match=f"is here already, with sha256 .* and not {cut_there.stored.sha256}"):
        asyncio.run(adopt(here, carried, sha256=cut_there.stored.sha256))


@pytest.mark.parametrize("lost", [1, 100_000, -200, -30])
def test_truncated_file_is_refused(carried: Path, here: ModelStore, lost: int) -> None:
    """So many bytes are lacking, or so many are left."""
    content = carried.read_bytes()
    carried.write_bytes(content[:-lost])
    with pytest.raises(ModelFileError, match=r"carried\.gguf.*(truncated|ends|bytes)"):
        asyncio.run(adopt(here, carried))
    assert not (here.folder / MODEL / "overlay.json").exists()


def test_whole_model_and_what_is_no_model_are_no_stages(
    here: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="is no stage of a model: it does not say what it was cut from"):
        asyncio.run(adopt(here, smollm2.path))
    (tmp_path / "letter.gguf").write_text("Dear all, " * 100)
    with pytest.raises(ModelFileError, match="does not begin with 'GGUF'"):
        asyncio.run(adopt(here, tmp_path / "letter.gguf"))


def test_source_that_nobody_here_knows_is_named_by_hand_and_a_wrong_name_is_refused(
    carried: Path, here: ModelStore, cut_there: Sliced
) -> None:
    """As of a model whose card pins no hash, on a machine that never fetched it."""
    name = "Q4_1"
    unpinned = here.registry.shipped(MODEL)
    variants = tuple(v.model_copy(update={"sha256": None}) for v in unpinned.variants)
    others = [card for card in here.registry.cards if card.id != MODEL]
    store = ModelStore(
        here.folder, Registry([*others, unpinned.model_copy(update={"variants": variants})]), here._fetcher
    )
    with pytest.raises(RequestError, match="no model here is known to have it; name the model with --model ID"):
        asyncio.run(adopt(store, carried))
    with pytest.raises(ModelFileError, match=r"of 30 layers, and qwen2.5-0.5b-instruct has 24"):
        asyncio.run(adopt(store, carried, model_id="qwen2.5-0.5b-instruct", variant="Q4_K_M"))
    with pytest.raises(ModelFileError, match="gemma-3-270m Q4_K_M is another file"):
        asyncio.run(adopt(store, carried, model_id="gemma-3-270m", variant="Q4_K_M"))
    made = asyncio.run(adopt(store, carried, model_id=MODEL, variant=name))
    assert made.stored.variant.source == cut_there.stored.variant.source


def test_name_of_another_variant_than_the_hash_says_is_refused(carried: Path, here: ModelStore) -> None:
    with pytest.raises(ModelFileError, match="which is smollm2-135m-instruct Q4_1; name nothing else"):
        asyncio.run(adopt(here, carried, model_id=MODEL, variant="Q8_0"))


Change = Callable[[GgufHeader], GgufHeader]


def saying(**told: Value) -> Change:
    keys = {"begin": BEGIN_KEY, "end": END_KEY, "layers": LAYERS_KEY, "source": SOURCE_KEY}
    return lambda found: replace(found, metadata=found.metadata | {keys[name]: value for name, value in told.items()})


def without(begin: str) -> Change:
    return lambda found: replace(found, tensors=tuple(t for t in found.tensors if not t.name.startswith(begin)))


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (saying(source="a hash"), ModelFileError, "metadata edgeagent.stage is damaged"),
        (saying(end="two"), ModelFileError, "metadata edgeagent.stage is damaged"),
        (saying(begin=True), ModelFileError, "metadata edgeagent.stage is damaged"),
        (saying(begin=5, end=3), ModelFileError, "5:3 are no layers of 30"),
        (saying(end=31), ModelFileError, "0:31 are no layers of 30"),
        (saying(begin=1), ModelFileError, "1:2 have 1 layers, it says 2 and has 2"),
        (saying(end=5), ModelFileError, "0:5 have 5 layers, it says 2 and has 2"),
        (without("blk.1."), ModelFileError, "have 2 layers, it says 2 and has 1"),
        (without("blk.1.ffn_up"), ModelFileError, "its layers do not have the same tensors"),
        (without("token_embd"), ModelFileError, "it has no token table"),
        (lambda h: replace(h, architecture="mamba"), RequestError, "the architecture 'mamba' needs more of others"),
    ],
)  # fmt: skip
def test_stage_that_is_not_what_it_says_is_refused(
    cut_there: Sliced, change: Change, error: type[Exception], reason: str
) -> None:
    path = cut_there.stored.path
    assert stage_in(read(path), path) == (Cut.of(0, K, LAYERS), stage_of(cut_there.stored)[1])
    with pytest.raises(error, match=reason):
        stage_in(change(read(path)), path)
