"""Which file may draft for which: small enough to help, and only in memory that is left."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.errors import ConfigError
from edgeagent.model.drafts import LEAST_SAVING, find_draft
from edgeagent.model.footprint import Setup
from edgeagent.model.registry import Registry
from edgeagent.model.store import StoredVariant

CARDS = Path(__file__).parents[2] / "models"
ROOM = 2**40
SETUP = Setup(4096, "q8_0", flash_attention=True, chunk_tokens=64)


def stored(model_id: str, num_bytes: int) -> StoredVariant:
    card = Registry.load(CARDS).card(model_id)
    return StoredVariant(card, card.variants[0], Path(f"/models/{model_id}"), "0" * 64, num_bytes, {})


LARGE, SMALL = stored("smollm2-1.7b-instruct", 1_055_609_824), stored("smollm2-135m-instruct", 98_362_432)


def test_smallest_file_of_the_draft_model_is_taken() -> None:
    larger = replace(SMALL, path=Path("/models/larger"), bytes=SMALL.bytes + 1)
    found = find_draft(LARGE, SETUP, [larger, SMALL], ROOM)
    assert found is not None
    assert found.path == str(SMALL.path)
    assert found.memory_bytes > 2 * SMALL.bytes


def test_draft_model_is_left_out_where_memory_is_short() -> None:
    found = find_draft(LARGE, SETUP, [SMALL], ROOM)
    assert found is not None
    assert find_draft(LARGE, SETUP, [SMALL], found.memory_bytes) == found
    assert find_draft(LARGE, SETUP, [SMALL], found.memory_bytes - 1) is None


def test_larger_chunks_make_a_draft_model_take_more() -> None:
    small, large = (find_draft(LARGE, replace(SETUP, chunk_tokens=n), [SMALL], ROOM) for n in (64, 512))
    assert small is not None
    assert large is not None
    assert large.memory_bytes > small.memory_bytes


def test_draft_model_that_is_hardly_smaller_is_left_out() -> None:
    chosen = replace(LARGE, bytes=LEAST_SAVING * SMALL.bytes - 1)
    assert find_draft(chosen, SETUP, [SMALL], ROOM) is None
    assert find_draft(LARGE, SETUP, [], ROOM) is None


def test_draft_models_of_cards_have_vocabularies_of_the_same_size() -> None:
    registry = Registry.load(CARDS)
    pairs = [(card, registry.card(card.draft)) for card in registry.cards if card.draft]
    assert pairs
    for card, draft in pairs:
        assert card.architecture is not None
        assert draft.architecture is not None
        assert card.architecture.vocab == draft.architecture.vocab


def test_card_that_names_no_card_as_its_draft_is_refused(tmp_path: Path) -> None:
    text = (CARDS / "smollm2-135m-instruct.toml").read_text(encoding="utf-8")
    text = text.replace("\n[architecture]", 'draft = "smollm9"\n\n[architecture]')
    (tmp_path / "smollm2-135m-instruct.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="'draft': no card 'smollm9'"):
        Registry.load(tmp_path)
