"""LoRA adapters that a card lists: fetched, checked before an engine sees them, found by name."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import ConfigError, ModelFileError, ModelNotFoundError
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore
from tests.conftest import CARDS
from tests.execution import adapters
from tests.model.test_store import BytesFetcher

ID = "smollm2-135m-instruct"


def listing(*names: str, **more: object) -> ModelCard:
    """SmolLM2's card with adapters of these names."""
    card = Registry.load(CARDS).card(ID)
    told = [
        {
            "name": name,
            "file": f"{name}.gguf",
            "purpose": "for a test",
            "licence": "none",
            "source": {"kind": "url", "url": "https://example.org/adapter.gguf"},
            **more,
        }
        for name in names
    ]
    return ModelCard.model_validate(card.model_dump() | {"adapters": told})


def store_of(folder: Path, card: ModelCard, content: bytes = b"") -> ModelStore:
    return ModelStore(folder, Registry([card]), BytesFetcher(content))


def test_listed_adapter_is_fetched_and_found_offline(tmp_path: Path) -> None:
    made = adapters.write(tmp_path / "made.gguf")
    store = store_of(tmp_path / "models", listing("brief", sha256=made.sha256), Path(made.path).read_bytes())
    with pytest.raises(ModelNotFoundError, match=f"models pull {ID} --adapter brief"):
        store.adapter(ID, "Q4_1", "brief")
    path = asyncio.run(store.pull_adapter(ID, "brief"))
    found = store.adapter(ID, "Q4_1", "brief")
    assert (found.name, found.sha256, found.path) == ("brief", made.sha256, str(path))


def test_unknown_name_is_told_the_names_of_the_card(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no adapter 'rude'; its card lists brief, polite"):
        store_of(tmp_path, listing("brief", "polite")).adapter(ID, "Q4_1", "rude")
    with pytest.raises(ModelNotFoundError, match="its card lists none"):
        store_of(tmp_path, listing()).adapter(ID, "Q4_1", "rude")


def test_adapter_of_one_variant_is_not_used_with_another(tmp_path: Path) -> None:
    store = store_of(tmp_path, listing("brief", variants=["Q8_0"]))
    with pytest.raises(ModelNotFoundError, match=r"not made for .* Q4_1; .* none"):
        store.adapter(ID, "Q4_1", "brief")


def test_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    content = Path(adapters.write(tmp_path / "made.gguf").path).read_bytes()
    store = store_of(tmp_path / "models", listing("brief", sha256="0" * 64), content)
    with pytest.raises(ModelFileError, match="has sha256"):
        asyncio.run(store.pull_adapter(ID, "brief"))


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: adapters.write(path, family="qwen2"), "general.architecture is 'qwen2', not 'llama'"),
        (lambda path: adapters.write(path, kind="other"), "adapter.type is 'other'"),
        (lambda path: adapters.write(path, layers=31), "adapts nothing"),
        (lambda path: adapters.write(path, more=[("blk.0.attn_norm.weight", (576,))]), "adapts nothing"),
        (lambda path: adapters.write(path, more=[("token_embd.weight.lora_a", (4, 576))]), "adapts nothing"),
        (lambda path: adapters.write(path, more=[("blk.0.ffn_up.weight.lora_a", (4, 576))]), "of one rank"),
        (lambda path: path.write_bytes(b"GGUF" + b"\xff" * 400), "no sound GGUF|not a sound GGUF"),
    ],
)
def test_file_that_is_no_adapter_of_the_model_is_refused_before_an_engine_sees_it(
    tmp_path: Path, make: Change, reason: str
) -> None:
    store = store_of(tmp_path, card := listing("brief"))
    path = store.path(card, card.adapters[0])
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(ModelFileError, match=reason):
        store.adapter(ID, "Q4_1", "brief")
    assert not path.exists()


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, card := listing("brief"))
    path = store.path(card, card.adapters[0])
    path.parent.mkdir(parents=True)
    whole = Path(adapters.write(tmp_path / "whole.gguf").path).read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(ModelFileError, match="truncated"):
        store.adapter(ID, "Q4_1", "brief")


def test_removing_the_model_removes_its_adapters(tmp_path: Path) -> None:
    store = store_of(tmp_path, card := listing("brief"))
    path = store.path(card, card.adapters[0])
    path.parent.mkdir(parents=True)
    adapters.write(path)
    store.adapter(ID, "Q4_1", "brief")
    size = path.stat().st_size
    assert asyncio.run(store.remove(ID)) >= size
    assert not path.exists()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('variants = ["Q9_9"]', "no variant 'Q9_9'"),
        ('source = { kind = "pruned", variant = "Q4_1", dropped = [1] }', "fetched .gguf file"),
    ],
)
def test_card_with_an_impossible_adapter_is_refused(tmp_path: Path, table: str, reason: str) -> None:
    source = "" if "source" in table else 'source = { kind = "url", url = "https://example.org/a.gguf" }'
    text = (CARDS / f"{ID}.toml").read_text(encoding="utf-8")
    entry = f'\n[[adapters]]\nname = "a"\nfile = "a.gguf"\npurpose = "p"\nlicence = "l"\n{table}\n{source}\n'
    (tmp_path / f"{ID}.toml").write_text(text + entry, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        Registry.load(tmp_path)
