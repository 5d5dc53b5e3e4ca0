"""Block influence of the embedded model's layers."""

import numpy as np
import pytest

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.influence import BlockInfluence, cosine
from edgeagent.model.store import StoredVariant
from tests.execution.llama.conftest import Job


def test_cosine_is_of_rows() -> None:
    a = np.array([[1, 0], [1, 1], [2, 0]], np.float32)
    b = np.array([[0, 3], [2, 2], [-1, 0]], np.float32)
    assert cosine(a, b) == pytest.approx([0, 1, -1])


def test_layer_that_was_never_seen_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot be pruned"):
        BlockInfluence(2).influence()


def test_embedded_model_has_an_influence_for_each_layer(job: Job, smollm2: StoredVariant, prose: bytes) -> None:
    facts = job("influence", prose, path=str(smollm2.path), chunks=2, context_tokens=64, threads=1)
    influence = facts["influence"]
    assert len(influence) == 30
    assert all(0 < value < 2 for value in influence)
    # The first layer turns embeddings into something else; the middle ones change little.
    assert influence.index(max(influence)) == 0
    assert 5 < influence.index(min(influence)) < 25


def test_equal_windows_have_the_influence_of_one(job: Job, smollm2: StoredVariant) -> None:
    text = b" so" * 256
    once, twice = (
        job("influence", text, path=str(smollm2.path), chunks=chunks, context_tokens=32, threads=1)["influence"]
        for chunks in (1, 2)
    )
    assert twice == pytest.approx(once)
