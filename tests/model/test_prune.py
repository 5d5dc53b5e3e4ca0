"""Which layers go: pure choices, and the embedded model cut for real."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.cards import Architecture, ModelCard, PrunedSource
from edgeagent.core.errors import ModelNotFoundError, RequestError
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.prune import check_depth, choose, pattern, plan, prune
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore, StoredVariant

MODEL = "smollm2-135m-instruct"


@given(st.lists(st.floats(0, 2), min_size=2, max_size=60), st.data())
def test_least_influential_layers_go_and_as_many_as_asked(influence: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(influence) - 1))
    dropped = choose(influence, keep)
    assert len(influence) - len(dropped) == keep
    assert list(dropped) == sorted(set(dropped))
    kept = [value for i, value in enumerate(influence) if i not in dropped]
    assert max(influence[i] for i in dropped) <= min(kept)


@given(st.integers(2, 6), st.integers(2, 8), st.data())
def test_window_pattern_goes_in_whole_groups(step: int, groups: int, data: st.DataObject) -> None:
    rest = data.draw(st.integers(0, step - 1))
    influence = data.draw(st.lists(st.floats(0, 2), min_size=step * groups + rest, max_size=step * groups + rest))
    keep = len(influence) - step * data.draw(st.integers(1, groups - 1))
    dropped = choose(influence, keep, step)
    assert len(influence) - len(dropped) == keep
    kept = [i for i in range(len(influence)) if i not in dropped]
    assert [i % step for i in kept] == [i % step for i in range(keep)]  # each layer keeps its place in the pattern


def test_equal_influence_drops_the_later_layer() -> None:
    assert choose([1.0, 0.5, 0.5, 1.0], 3) == (2,)


def with_layers(card: ModelCard, layers: int, period: int | None) -> ModelCard:
    assert card.architecture is not None
    shape = card.architecture.model_copy(update={"layers": layers, "window_pattern": period})
    return card.model_copy(update={"architecture": Architecture.model_validate(shape.model_dump())})


@pytest.mark.parametrize(
    ("layers", "period", "keep", "possible"),
    [(4, None, 4, "3, 2"), (4, None, 1, "3, 2"), (18, 6, 13, "12"), (4, 4, 2, "none")],
)
def test_impossible_depth_is_refused_with_the_possible_ones(
    tiny_card: ModelCard, layers: int, period: int | None, keep: int, possible: str
) -> None:
    card = with_layers(tiny_card, layers, period)
    with pytest.raises(RequestError, match=f"cannot be cut to {keep}; --layers may be {possible}$"):
        check_depth(card, card.variants[0], keep)


def test_file_is_called_as_its_base_is(tiny_card: ModelCard) -> None:
    base = tiny_card.variants[0].model_copy(update={"name": "Q4_K_M", "file": "gemma-3-270m-q4_k_m.gguf"})
    assert plan(base, (0,), 12).file == "gemma-3-270m.Q4_K_M-d12.gguf"


def test_family_with_layers_of_two_kinds_is_cut_in_groups(tiny_card: ModelCard) -> None:
    assert tiny_card.architecture is not None
    assert pattern(tiny_card.architecture) == 1
    assert pattern(tiny_card.architecture.model_copy(update={"cut_step": 4})) == 4


def test_pruned_variant_is_not_pruned_again(tiny_card: ModelCard) -> None:
    card = with_layers(tiny_card, 4, None)
    variant = plan(card.variants[0], (2,), 3)
    assert (variant.name, variant.file, variant.quantization) == ("F32-d3", "tiny.F32-d3.gguf", "F32")
    assert card.shape(variant).layers == 3
    with pytest.raises(RequestError, match="is pruned already"):
        check_depth(card, variant, 2)


@pytest.mark.long
def test_embedded_model_of_28_layers_is_admitted_found_and_removed(
    smollm2: StoredVariant, embedded_store: ModelStore, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path, Registry([smollm2.card]), embedded_store._fetcher)
    path = store.path(smollm2.card, smollm2.variant)
    path.parent.mkdir(parents=True)
    path.symlink_to(smollm2.path)
    text = (Path(__file__).parents[2] / "LICENSE").read_bytes() * 2
    made = asyncio.run(prune(store, MODEL, 28, text, lambda: Worker.spawn("llama"), 1))
    assert made.stored.variant.name == "Q4_1-d28"
    assert made.stored.variant.source == PrunedSource(kind="pruned", variant="Q4_1", dropped=made.dropped)
    assert len(made.influence) == 30
    again = ModelStore(tmp_path, overlay.lay_over(Registry([smollm2.card]), tmp_path), embedded_store._fetcher)
    assert again.find(MODEL, "Q4_1-d28") == made.stored
    assert not list((path.parent / ".partial").glob("*.gguf"))
    assert asyncio.run(again.remove(MODEL, "Q4_1-d28")) >= made.stored.bytes
    with pytest.raises(ModelNotFoundError):
        overlay.lay_over(Registry([smollm2.card]), tmp_path).variant(MODEL, "Q4_1-d28")
