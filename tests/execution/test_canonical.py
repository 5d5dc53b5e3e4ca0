from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.canonical import block_range, num_blocks, reusable, spans

lengths = st.integers(0, 300)


@given(st.integers(1, 300), lengths, st.integers(1, 64))
def test_spans_cover_everything_in_full_chunks_then_singles(prompt: int, output: int, chunk: int) -> None:
    shape = spans(prompt, output, chunk)
    assert sum(shape) == prompt + output
    assert shape[: prompt // chunk] == [chunk] * (prompt // chunk)
    assert all(length == 1 for length in shape[len(shape) - output :])


@given(st.integers(1, 300), st.integers(1, 64))
def test_blocks_tile_the_prompt(prompt: int, chunk: int) -> None:
    ranges = [block_range(i, prompt, chunk) for i in range(num_blocks(prompt, chunk))]
    assert [t for first, end in ranges for t in range(first, end)] == list(range(prompt))


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), max_size=60), st.integers(1, 8))
def test_reuse_is_a_common_prefix_in_common_shapes(cached: list[int], wanted: list[int], chunk: int) -> None:
    have, want = spans(len(cached), 0, chunk), spans(len(wanted), 0, chunk)
    tokens, num_spans = reusable(cached, have, wanted, want)
    assert cached[:tokens] == wanted[:tokens]
    assert have[:num_spans] == want[:num_spans]
    assert sum(want[:num_spans]) == tokens


def test_generated_tokens_are_not_reused_as_prompt() -> None:
    cached = list(range(12))
    assert reusable(cached, spans(8, 4, 8), cached, spans(12, 0, 8)) == (8, 1)
