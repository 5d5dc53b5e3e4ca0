"""How a text is cut into windows, and windows into batches."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import RequestError
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.windows import MAX_LOGIT_BYTES, MIN_BATCH_TOKENS, batch_tokens, cut
from edgeagent.model.store import StoredVariant


@given(st.integers(16, 100_000), st.integers(1, 300_000))
def test_batch_is_bounded_by_window_and_logits(window: int, vocab: int) -> None:
    size = batch_tokens(window, vocab)
    assert MIN_BATCH_TOKENS <= size <= max(window, MIN_BATCH_TOKENS)
    assert size == MIN_BATCH_TOKENS or size * vocab * 4 <= MAX_LOGIT_BYTES or size // 2 < MIN_BATCH_TOKENS


def test_batch_of_the_usual_window_is_whole() -> None:
    assert batch_tokens(512, 49_152) == 512
    assert batch_tokens(512, 262_144) == 128


@pytest.fixture(scope="module")
def model(smollm2: StoredVariant) -> Model:
    return Model(str(smollm2.path), extra_buffers=False)


def test_text_is_cut_into_whole_windows_in_order(model: Model, prose: bytes) -> None:
    windows = cut(model, prose, 64, 3)
    tokens = model.tokenize(prose.decode(), add_special=True, parse_special=False)
    assert windows == [tokens[0:64], tokens[64:128], tokens[128:192]]


def test_last_newline_of_a_text_is_not_part_of_it(model: Model) -> None:
    text = b"one two three four five six seven eight"
    assert cut(model, text + b"\n", 4, 9) == cut(model, text, 4, 9)


def test_text_of_less_than_two_windows_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="128 are needed"):
        cut(model, b"too short", 64, 1)
