"""Cards whose keys contradict each other are refused, with the key at fault."""

from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import ConfigError
from edgeagent.model.registry import Registry

DECODER = """
id = "d"
name = "D"
kind = "chat"
licence = "MIT"
source = "test"
parameters = {parameters}
[architecture]
family = "llama"
layers = 12
width = 64
ffn = 128
heads = 4
kv_heads = {kv_heads}
head_dim = 16
vocab = 1000
context_tokens = 512
tied_head = true
{shape}
[[variants]]
name = "Q8_0"
file = "d.gguf"
source = {{ kind = "url", url = "https://models.invalid/d.gguf" }}
{more}
"""
COUNTED = 64 * 1000 + 64 + 12 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64)
"""By hand: table and final norm; queries and output, keys and values of two heads, feed-forward, two norms."""


def load(folder: Path, shape: str = "", more: str = "", kv_heads: int = 2, parameters: int = COUNTED) -> ModelCard:
    text = DECODER.format(shape=shape, more=more, kv_heads=kv_heads, parameters=parameters)
    (folder / "d.toml").write_text(text)
    return Registry.load(folder).card("d")


def variant(source: str, more: str = "") -> str:
    return f'[[variants]]\nname = "m"\nfile = "m.gguf"\n{more}\nsource = {{ {source} }}'


def pruned(dropped: str, base: str = "Q8_0") -> str:
    return f'kind = "pruned", variant = "{base}", dropped = {dropped}'


def test_sound_card_is_read(tmp_path: Path) -> None:
    card = load(
        tmp_path,
        shape="sliding_window = 128\nwindow_pattern = 6",
        more=variant(pruned("[3, 4]"), "layers = 10"),
        parameters=round(COUNTED * 1.02),
    )
    assert card.shape(card.variants[1]).layers == 10


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        ("sliding_window = 128", "architecture.window_pattern"),
        ("window_pattern = 6", "architecture.window_pattern"),
        ("sliding_window = 128\nwindow_pattern = 13", "architecture.window_pattern"),
        ("sliding_window = 513\nwindow_pattern = 6", "architecture.sliding_window"),
        ("experts = { count = 4, used = 5, ffn = 32 }", "architecture.experts.used"),
        ("experts = { count = 4, used = 2, ffn = 128 }", "parameters"),
    ],
)
def test_shape_that_contradicts_itself_is_named(tmp_path: Path, shape: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"d\.toml: key '{key}'"):
        load(tmp_path, shape=shape)


def test_key_value_heads_must_divide_heads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key 'architecture\.kv_heads': 3 does not divide 4 heads"):
        load(tmp_path, kv_heads=3)


@pytest.mark.parametrize("factor", [0.96, 1.04])
def test_published_parameters_far_from_the_shape_are_named(tmp_path: Path, factor: float) -> None:
    with pytest.raises(ConfigError, match=rf"key 'parameters': .* the shape has {COUNTED:,}"):
        load(tmp_path, parameters=round(COUNTED * factor))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (variant('kind = "quantized", variant = "x"'), r"variants\.1\.source\.variant"),
        (variant('kind = "quantized", variant = "m"'), r"variants\.1\.source\.variant"),
        (variant(pruned("[1]", base="x"), "layers = 11"), r"variants\.1\.source\.variant"),
        (variant(pruned("[1]")), r"variants\.1\.layers"),
        (variant(pruned("[1]"), "layers = 10"), r"variants\.1\.layers"),
        (variant(pruned("[1, 1]"), "layers = 10"), r"variants\.1\.source\.dropped"),
        (variant(pruned("[12]"), "layers = 11"), r"variants\.1\.source\.dropped"),
        (variant('kind = "hub", repo = "a/b", path = "m.gguf"', "bytes = 5"), r"variants\.1\.bytes_source"),
    ],
)
def test_variant_without_its_origin_is_named(tmp_path: Path, more: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"d\.toml: key '{key}'"):
        load(tmp_path, more=more)
