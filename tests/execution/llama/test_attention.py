"""Attention of a prompt's end, on the real model: read where it is a tensor, computed again where it never is one."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.attention import WindowAttention, softmax
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.watch import attention_of

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

WINDOW, NUM_TOKENS, HEADS = 32, 150, 9


@pytest.fixture(scope="module")
def model(smollm2: "StoredVariant") -> Model:
    return Model(str(smollm2.path), extra_buffers=False)


def attention(
    model: Model, prose: bytes, kv_type: str, flash_attention: bool
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    tokens = model.tokenize(prose.decode(), add_special=False, parse_special=False)[:NUM_TOKENS]
    context = Context(model, ContextSettings(512, kv_type, flash_attention, 1, 64, sequences=3))
    try:
        context.slots[0].evaluate(tokens[:9])
        slot = context.slots[1]
        for begin in range(0, NUM_TOKENS, 64):
            slot.evaluate(tokens[begin : begin + 64])
        return np.array(attention_of(context, slot, WINDOW))
    finally:
        context.close()


def test_attention_behind_flash_attention_is_that_without_it(model: Model, prose: bytes) -> None:
    plain = attention(model, prose, "f16", flash_attention=False)
    assert plain.sum() == pytest.approx(model.layers * HEADS * WINDOW, rel=1e-5)  # every row adds up to one
    assert plain[-1] > 0  # the last token's own
    for kv_type, likeness in (("f16", 0.999), ("q8_0", 0.999), ("q4_0", 0.95)):
        flash = attention(model, prose, kv_type, flash_attention=True)
        assert flash.sum() == pytest.approx(plain.sum(), rel=1e-5)
        assert np.corrcoef(flash[4:-WINDOW], plain[4:-WINDOW])[0, 1] > likeness


def test_rows_do_not_see_what_comes_after_them() -> None:
    weights = softmax(np.zeros((1, 2, 4), np.float32))
    assert weights[0].tolist() == [[pytest.approx(1 / 3)] * 3 + [0.0], [0.25] * 4]


def test_layer_that_was_not_seen_is_an_error() -> None:
    with pytest.raises(EngineError, match="0 of 30 layers"):
        WindowAttention(30, 10, 2).scores()
