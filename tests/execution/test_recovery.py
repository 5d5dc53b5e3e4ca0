"""What follows a lost worker: the same settings, safer ones, smaller ones, or a rest."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import EngineLostError
from edgeagent.execution.loss import Cause
from edgeagent.execution.recovery import (
    FIRST_REST_S,
    LEAST_CONTEXT_TOKENS,
    LONGEST_REST_S,
    History,
    Loss,
    Running,
    Step,
    recover,
)

USUAL = Running(
    extra_buffers=True, flash_attention=True, kv_type="q8_0", threads=4, load_mode="map", gpu_layers=0,
    context_tokens=4096, sequences=4,
)  # fmt: skip
CAUSES = st.sampled_from(list(Cause))


def crash(at_s: float, *, progress: bool = False, answer: str = "", cause: Cause = Cause.CRASHED) -> Loss:
    return Loss(at_s, cause, progress, frozenset({answer} if answer else ()))


def after(*losses: Loss, settings: Running = USUAL) -> tuple[History, Step]:
    history, step = History(), Step(settings)
    for loss in losses:
        history, step = recover(history, loss, step.settings)
    return history, step


def test_crash_after_progress_keeps_the_settings_so_that_the_bits_stay() -> None:
    history, step = after(*(crash(float(i), progress=True, answer=f"a{i}") for i in range(20)))
    assert step == Step(USUAL)
    history.check(21.0)


@pytest.mark.parametrize("cause", [Cause.CRASHED, Cause.STUCK])
def test_crash_without_progress_makes_the_settings_safer_and_says_that_bits_change(cause: Cause) -> None:
    _, step = after(crash(0.0, cause=cause))
    assert step.settings == replace(USUAL, extra_buffers=False)
    assert step.changes_bits
    assert "not repacked" in step.change


def test_second_crash_under_the_same_answer_makes_the_settings_safer() -> None:
    _, step = after(crash(0.0, progress=True, answer="a"), crash(1.0, progress=True, answer="b"))
    assert step.settings == USUAL
    _, step = after(crash(0.0, progress=True, answer="a"), crash(1.0, progress=True, answer="a"))
    assert not step.settings.extra_buffers


def test_ladder_has_an_end_and_keeps_what_the_cache_needs() -> None:
    settings, told = replace(USUAL, gpu_layers=9), []
    for i in range(8):
        _, step = recover(History(), crash(100.0 * i), settings)
        settings = step.settings
        told.append(step.change)
    assert settings == replace(USUAL, extra_buffers=False, threads=1)
    assert told[:3] == ["the GPU is left out", "weights are not repacked", "one thread only"]
    assert not any(told[3:])
    _, last = recover(History(), crash(0.0), replace(settings, kv_type="f16"))
    assert not last.settings.flash_attention


def test_unreadable_mapping_is_read_instead() -> None:
    _, step = recover(History(), replace(crash(0.0), is_bus_error=True), USUAL)
    assert step == Step(replace(USUAL, load_mode="read"), "the model file is read instead of mapped")


@pytest.mark.parametrize("cause", [Cause.KILLED, Cause.STOPPED, Cause.OVERRAN])
@pytest.mark.parametrize("progress", [True, False])
def test_worker_that_others_ended_comes_back_as_it_was(cause: Cause, progress: bool) -> None:
    _, step = after(crash(0.0, progress=progress, cause=cause), crash(1.0, progress=progress, cause=cause))
    assert step == Step(USUAL)


@pytest.mark.parametrize("cause", [Cause.OUT_OF_MEMORY, Cause.NO_MEMORY])
def test_out_of_memory_takes_sequences_first_then_context_down_to_a_floor(cause: Cause) -> None:
    settings, seen = USUAL, []
    for i in range(20):
        _, step = recover(History(), crash(100.0 * i, cause=cause), settings)
        settings = step.settings
        seen.append((settings.sequences, settings.context_tokens))
        assert not step.changes_bits
    assert seen[:3] == [(2, 4096), (1, 4096), (1, 3072)]
    assert LEAST_CONTEXT_TOKENS <= settings.context_tokens < 2 * LEAST_CONTEXT_TOKENS
    assert replace(settings, sequences=4, context_tokens=4096) == USUAL


def test_loop_of_losses_is_refused_for_a_while_and_longer_each_time() -> None:
    history, _ = after(crash(0.0), crash(1.0))
    history.check(1.5)
    history, _ = recover(history, crash(2.0), USUAL)
    with pytest.raises(EngineLostError, match="lost 3 times within 60 s"):
        history.check(2.0)
    history.check(2.0 + FIRST_REST_S)
    for _round in range(10):
        start = history.rests_until_s
        for i in range(3):
            history, _ = recover(history, crash(start + i), USUAL)
    assert history.rests_until_s - (start + 2) == LONGEST_REST_S


def test_slow_losses_and_losses_with_progress_are_no_loop() -> None:
    history, _ = after(*(crash(61.0 * i) for i in range(10)))
    history.check(61.0 * 9)
    history, _ = after(crash(0.0), crash(1.0), crash(2.0, progress=True))
    history.check(2.0)


def test_success_forgives() -> None:
    history, _ = after(crash(0.0), crash(1.0))
    history, _ = recover(history.succeeded(), crash(2.0), USUAL)
    history.check(2.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 40), CAUSES, st.booleans(), st.sampled_from(["", "a", "b"]), st.booleans()), max_size=30
    ),
    st.booleans(),
    st.sampled_from(["q8_0", "f16"]),
)
def test_whatever_happens_settings_only_become_safer_or_smaller(
    losses: list[tuple[float, Cause, bool, str, bool]], has_gpu: bool, kv_type: str
) -> None:
    history, settings = History(), replace(USUAL, gpu_layers=3 * has_gpu, kv_type=kv_type)
    at_s = 0.0
    for gap_s, cause, progress, answer, is_bus in losses:
        at_s += gap_s
        loss = replace(crash(at_s, progress=progress, answer=answer, cause=cause), is_bus_error=is_bus)
        history, step = recover(history, loss, settings)
        assert (step.settings == settings) is not bool(step.change)
        assert step.settings.kv_type == kv_type
        assert step.settings.flash_attention or kv_type == "f16"
        assert step.settings.extra_buffers <= settings.extra_buffers
        assert step.settings.threads <= settings.threads
        assert step.settings.gpu_layers <= settings.gpu_layers
        assert 1 <= step.settings.sequences <= settings.sequences
        assert min(LEAST_CONTEXT_TOKENS, settings.context_tokens) <= step.settings.context_tokens
        assert step.settings.context_tokens <= settings.context_tokens
        bits = ("extra_buffers", "flash_attention", "gpu_layers")
        changed = any(getattr(step.settings, name) != getattr(settings, name) for name in bits)
        assert step.changes_bits is changed
        assert len(history.losses) <= 1 + len(losses)
        settings = step.settings
