"""A tiny GGUF file, its card, and the embedded models from the real package index."""

import hashlib
from pathlib import Path

import pytest

from edgeagent.core.cards import Architecture, ModelCard, QuantizedSource, UrlSource, Variant

CARDS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound file of one layer, made by the format's own writer."""
    import numpy as np
    from gguf import GGUFWriter

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_file_type(0)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["<s>", "</s>", "a", "bé"])
    writer.add_token_scores([0.0, 0.0, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def tiny_card(tiny_gguf: bytes) -> ModelCard:
    sha256 = hashlib.sha256(tiny_gguf).hexdigest()
    source = UrlSource(kind="url", url="https://models.invalid/tiny.gguf")
    made = QuantizedSource(kind="quantized", variant="F32")
    return ModelCard(
        id="tiny",
        name="Tiny",
        kind="chat",
        licence="Apache-2.0",
        source="made by this test",
        parameters=11_584,  # by its shape; the file leaves most of it out
        architecture=Architecture(
            family="llama", layers=1, width=32, ffn=85, heads=2, kv_heads=1, head_dim=16, vocab=4, context_tokens=64
        ),
        variants=(
            Variant(name="F32", file="tiny.gguf", source=source, bytes=len(tiny_gguf), sha256=sha256),
            Variant(name="Q8_0", file="tiny.Q8_0.gguf", source=made),
        ),
    )
