"""Cards: the shipped ones are sound, bad ones are named with their key."""

from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import ConfigError, ModelNotFoundError
from edgeagent.model.mixes import MIXES
from edgeagent.model.registry import Registry

CARDS = Path(__file__).parents[2] / "models"
EMBEDDING = """
id = "{id}"
name = "E"
kind = "embedding"
licence = "MIT"
source = "test"
parameters = 1
dimensions = 8
[[variants]]
name = "a"
file = "a.onnx"
source = {{ kind = "url", url = "https://models.invalid/a.onnx" }}
{more}
"""


def write(folder: Path, card_id: str = "e", more: str = "", name: str = "e.toml") -> None:
    (folder / name).write_text(EMBEDDING.format(id=card_id, more=more))


DECODERS = {
    "gemma-3-1b-it",
    "gemma-3-270m",
    "gemma-3-270m-it",
    "gemma-3-4b-it",
    "llama-3.2-1b-instruct",
    "llama-3.2-3b-instruct",
    "phi-4-mini-instruct",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-3b-instruct",
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-30b-a3b",
    "qwen3-4b",
    "smollm2-1.7b-instruct",
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    "smollm3-3b",
}
EMBEDDERS = {"bge-small-en-v1.5", "minilm-l6-v2-int8", "nomic-embed-text-v1.5"}
SENSES = {"face-detection-short-range", "okay-nabu-wake-word", "pp-ocrv6-small", "silero-vad"}


def test_shipped_cards_load_with_their_models() -> None:
    registry = Registry.load(CARDS)
    kinds: dict[str, set[str]] = {}
    for card in registry.cards:
        kinds.setdefault(card.kind, set()).add(card.id)
    assert kinds.pop("chat") | kinds.pop("base") == DECODERS
    assert kinds == {"embedding": EMBEDDERS, "perception": SENSES}
    assert [v.name for v in registry.card("smollm2-135m-instruct").variants] == [
        "Q4_1",
        "Q8_0",
        "Q4_0",
        "Q3_K_M",
        "Q2_K",
    ]


def test_shipped_decoder_variants_are_of_types_whose_size_is_predicted() -> None:
    for card in Registry.load(CARDS).cards:
        if card.architecture:
            assert {v.file_type for v in card.variants} <= set(MIXES)


@pytest.mark.parametrize(
    ("model_id", "first", "last"), [("smollm3-3b", 4, 32), ("gemma-3-1b-it", 6, 24), ("qwen3-30b-a3b", 1, 47)]
)
def test_cuts_of_shipped_models_respect_what_their_layers_count(model_id: str, first: int, last: int) -> None:
    shape = Registry.load(CARDS).card(model_id).architecture
    assert shape
    assert (shape.split_points()[0], shape.split_points()[-1]) == (first, last)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2-135m-instruct'"):
        Registry.load(CARDS).card("smollm2-135m")


def test_unknown_variant_names_the_nearest_whatever_its_case() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'Q4_0'"):
        Registry.load(CARDS).variant("smollm2-135m-instruct", "q4_0")


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("colour = 1", "variants.0.colour"),
        ('sha256 = "ff"', "variants.0.sha256"),
        ('[[variants]]\nname = "a"\nfile = "b"\nsource = { kind = "quantized", variant = "a" }', "variants.name"),
        ('[[variants]]\nname = "b"\nfile = "b"\nsource = { kind = "quantized", variant = "c" }', "variants.1.source"),
        ('[[variants]]\nname = "b"\nfile = "../b"\nsource = { kind = "quantized", variant = "a" }', "variants.1.file"),
    ],
)
def test_bad_card_is_named_with_its_key(tmp_path: Path, more: str, key: str) -> None:
    write(tmp_path, more=more)
    with pytest.raises(ConfigError, match=rf"e\.toml: key '{key}"):
        Registry.load(tmp_path)


def test_card_under_another_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, name="f.toml")
    with pytest.raises(ConfigError, match=r"f\.toml: key 'id'"):
        Registry.load(tmp_path)


def test_card_twice_is_refused(tiny_card: ModelCard) -> None:
    with pytest.raises(ConfigError, match="exists twice"):
        Registry([tiny_card, tiny_card])


@pytest.mark.parametrize("content", [b"id = ", b"\xff\xfe"])
def test_unreadable_card_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"e\.toml"):
        Registry.load(tmp_path)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model card"):
        Registry.load(tmp_path)
