"""Batches over several sequences of the real model."""

from typing import TYPE_CHECKING

import numpy as np

from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.context import Context, ContextSettings, Item
from edgeagent.execution.llama.model import Model

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant


def test_rows_are_those_of_the_items_in_whatever_order_they_come(smollm2: "StoredVariant") -> None:
    model = Model(str(smollm2.path), extra_buffers=False)
    settings = ContextSettings(64, "q8_0", flash_attention=True, threads=1, chunk_tokens=16, sequences=3)
    context = Context(model, settings)
    tokens = [[200], [300, 301], [400]]
    alone = []
    for slot, own in zip(context.slots, tokens, strict=True):
        context.evaluate([Item(slot, own)])
        alone.append(candidates.logits(context).copy())
        slot.clear()
    order = [2, 0, 1]
    rows = context.evaluate([Item(context.slots[i], tokens[i]) for i in order])
    for i, row in zip(order, rows, strict=True):
        last = row + len(tokens[i]) - 1
        assert np.array_equal(candidates.logits(context, last), alone[i])
    context.close()
