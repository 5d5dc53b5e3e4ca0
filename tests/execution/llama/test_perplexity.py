"""Perplexity, KL and top-1 agreement: against sums done by hand, and with the embedded model against itself."""

import math

import numpy as np
import pytest

from edgeagent.core.errors import RequestError
from edgeagent.execution.llama.perplexity import ROWS, Tally, log_softmax
from edgeagent.model.store import StoredVariant
from tests.execution.llama.conftest import Job


def test_log_softmax_is_of_probabilities_also_for_large_logits() -> None:
    logits = np.array([[1000.0, 1001.0, 999.0], [-5.0, 0.0, 5.0]], np.float32)
    assert np.exp(log_softmax(logits)).sum(axis=1) == pytest.approx([1, 1])
    assert log_softmax(logits)[0] == pytest.approx(log_softmax(logits - 1000)[0])


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary() -> None:
    tally = Tally()
    tally.add(np.zeros((3 * ROWS, 50), np.float32), list(range(3 * ROWS)), None)
    facts = tally.facts()
    assert facts["positions"] == 3 * ROWS
    assert facts["perplexity"] == pytest.approx(50)
    assert facts["perplexity_error"] == pytest.approx(0, abs=1e-6)
    assert facts["mean_kl"] is None


def test_scores_of_two_distributions_are_those_done_by_hand() -> None:
    reference, own = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.3, 0.5]])
    tally = Tally()
    tally.add(np.log(own).astype(np.float32), [1], np.log(reference).astype(np.float32))
    facts = tally.facts()
    assert facts["perplexity"] == pytest.approx(1 / 0.3, rel=1e-6)
    assert facts["mean_kl"] == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.2 * math.log(0.2 / 0.5), rel=1e-6)
    assert facts["top1"] == 0


def test_rows_left_over_by_the_last_token_are_not_scored() -> None:
    tally = Tally()
    tally.add(np.zeros((4, 7), np.float32), [1, 2, 3], np.zeros((4, 7), np.float32))
    assert tally.count == 3


def test_embedded_model_is_at_no_distance_from_itself(job: Job, smollm2: StoredVariant, prose: bytes) -> None:
    facts = job("perplexity", prose, **_params(smollm2), reference=str(smollm2.path))
    assert facts["chunks"] == 2
    assert facts["positions"] == 2 * 31  # of 64: the first half is context, the last token predicts nothing
    assert 2 < facts["perplexity"] < 200
    assert facts["mean_kl"] == 0
    assert facts["top1"] == 1


def test_short_text_is_refused_with_what_it_would_take(job: Job, smollm2: StoredVariant) -> None:
    with pytest.raises(RequestError, match=r"128 are needed; give a longer one"):
        job("perplexity", b"A few words.", **_params(smollm2), reference="")


def _params(stored: StoredVariant) -> dict[str, object]:
    return {
        "path": str(stored.path),
        "chunks": 2,
        "context_tokens": 64,
        "threads": 1,
        "extra_buffers": False,
        "flash_attention": True,
    }
