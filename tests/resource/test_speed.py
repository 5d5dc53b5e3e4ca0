"""The speed model: quotas, batches between one token and a chunk, windows, and what must always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.hardware import KernelRates, Kernels, Overheads
from edgeagent.resource.speed import Load, Quota, batch_s, decode_s, prefill_s, throttled_s

LOAD = Load(num_layers=30, width=576, layers={"Q4_1": 106_000_000}, head={"Q8_0": 28_000_000}, attention_width=576)
KERNELS = Kernels(
    chunk_tokens=64,
    rates=tuple(
        KernelRates(type=kind, threads=threads, token_elem_s=token * threads, chunk_elem_s=chunk * threads)
        for kind, token, chunk in (("Q4_1", 11e9, 18e9), ("Q8_0", 10e9, 30e9))
        for threads in (1, 2)
    ),
    overheads=tuple(
        Overheads(
            threads=threads,
            layer_s=2e-5,
            vector_elem_s=1.2e7 * threads,
            attention_token_elem_s=1.5e9 * threads,
            attention_chunk_elem_s=1.5e9 * threads,
            batch_shares={8: 0.15, 32: 0.6},
        )
        for threads in (1, 2)
    ),
)


def test_one_token_costs_its_weights_its_head_and_its_layers() -> None:
    expected = 106e6 / 11e9 + 28e6 / 10e9 + 30 * 2e-5 + 30 * 576 * 1 / 1.5e9
    assert decode_s(LOAD, KERNELS, 1, 0) == pytest.approx(expected)


def test_batches_between_measured_sizes_lie_on_straight_lines() -> None:
    def without_attention(tokens: int) -> float:
        wide_open = KERNELS.overheads[0].model_copy(
            update={"attention_token_elem_s": 1e30, "attention_chunk_elem_s": 1e30}
        )
        return batch_s(LOAD, KERNELS.model_copy(update={"overheads": (wide_open,)}), 1, tokens, 0)

    one, eight, thirty_two, chunk = (without_attention(n) for n in (1, 8, 32, 64))
    assert eight == pytest.approx(one + 0.15 * (chunk - one))
    assert without_attention(20) == pytest.approx((eight + thirty_two) / 2)


def test_window_bounds_what_its_layers_attend_to() -> None:
    windowed = Load(18, 640, {"Q4_1": 1}, {}, 1024, window_layers=15, window=512)
    whole = Load(18, 640, {"Q4_1": 1}, {}, 1024)
    assert decode_s(windowed, KERNELS, 1, 400) == decode_s(whole, KERNELS, 1, 400)
    far = decode_s(windowed, KERNELS, 1, 8000) - decode_s(windowed, KERNELS, 1, 4000)
    assert far == pytest.approx((decode_s(whole, KERNELS, 1, 8000) - decode_s(whole, KERNELS, 1, 4000)) * 3 / 18)


def test_quota_lets_threads_run_until_it_is_spent() -> None:
    half = Quota(cores=1.0, period_s=0.1)
    assert throttled_s(0.05, 1, half) == 0.05
    assert throttled_s(0.02, 2, half) == 0.02
    assert throttled_s(1.0, 2, half) == pytest.approx(2.0, rel=0.02)
    assert throttled_s(0.01, 2, half, is_long=True) == pytest.approx(0.02)


@given(st.integers(1, 4000), st.integers(0, 4000), st.sampled_from((1, 2)), st.floats(0.1, 2.0))
def test_more_tokens_more_context_and_less_quota_never_take_less_time(
    tokens: int, past: int, threads: int, cores: float
) -> None:
    free = prefill_s(LOAD, KERNELS, threads, tokens, past=past)
    assert prefill_s(LOAD, KERNELS, threads, tokens + 1, past=past) >= free
    assert prefill_s(LOAD, KERNELS, threads, tokens, past=past + 1) >= free
    assert prefill_s(LOAD, KERNELS, threads, tokens, past=past, quota=Quota(cores)) >= free * (1 - 1e-9)


def test_type_or_thread_count_that_was_not_measured_is_named() -> None:
    with pytest.raises(ValueError, match="Q3_K"):
        decode_s(Load(1, 64, {"Q3_K": 1}, {}, 64), KERNELS, 1, 0)
    with pytest.raises(ValueError, match="4 threads"):
        decode_s(LOAD, KERNELS, 4, 0)


def test_type_that_was_not_measured_takes_the_rates_of_its_kin() -> None:
    def seconds(kind: str) -> float:
        return prefill_s(Load(1, 64, {kind: 10**9}, {}, 64), KERNELS, 1, 128)

    assert seconds("Q6_K") == seconds("F16") == seconds("Q8_0")
