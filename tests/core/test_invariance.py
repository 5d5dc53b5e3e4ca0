"""What a probe concludes: never more than it tested, and nothing from nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.invariance import EvaluationSettings, Invariance, conclude

KINDS = ("cut", "mixed", "rewind", "restore", "threads")
differences = st.sampled_from([0.0, 0.0, 0.0, 1e-38, 0.7])
checks = st.dictionaries(
    st.one_of(
        st.builds("{} {}".format, st.sampled_from(["decode", "draft"]), st.integers(2, 16)),
        st.builds("{} {}".format, st.sampled_from(KINDS), st.sampled_from(["1", "2", "far"])),
    ),
    differences,
)
SETTINGS = EvaluationSettings("q8_0", flash_attention=True, extra_buffers=False, threads=2, chunk_tokens=64)


@given(checks)
def test_verdict_claims_no_larger_batch_than_was_tested_with_all_smaller_ones_exact(worst: dict[str, float]) -> None:
    found = conclude(worst, has_window=False, complete=True)
    for kind, claimed in (("decode", found.decode_batch), ("draft", found.draft_batch)):
        tested = {int(check.split()[1]): d for check, d in worst.items() if check.startswith(kind)}
        assert claimed == 1 or claimed in tested
        assert not any(d for size, d in tested.items() if size <= claimed)


@given(checks)
def test_verdict_grants_nothing_that_a_check_denied_or_no_check_tried(worst: dict[str, float]) -> None:
    found = conclude(worst, has_window=False, complete=True)
    for kind, granted in (
        ("cut", found.free_prefill),
        ("mixed", found.mixed),
        ("rewind", found.rewind),
        ("restore", found.restore),
        ("threads", found.threads),
    ):
        seen = [d for check, d in worst.items() if check.startswith(kind)]
        assert not granted or (seen and not any(seen))


@given(checks, checks)
def test_a_further_check_that_differs_never_grants_more(worst: dict[str, float], more: dict[str, float]) -> None:
    before = conclude(worst, has_window=False, complete=False)
    after = conclude(dict.fromkeys(more, 0.5) | worst, has_window=False, complete=False)
    for name in ("free_prefill", "rewind", "mixed", "restore", "threads"):
        assert getattr(after, name) <= getattr(before, name)
    assert (after.decode_batch, after.draft_batch) <= (before.decode_batch, before.draft_batch)


def test_nothing_known_is_the_safest_verdict() -> None:
    assert conclude({}, has_window=False, complete=False) == Invariance()


def test_pieces_are_free_only_when_they_were_tried_far_from_the_start_too() -> None:
    assert not conclude({"cut 1": 0.0}, has_window=False, complete=False).free_prefill
    assert conclude({"cut 1": 0.0, "cut far": 0.0}, has_window=False, complete=False).free_prefill


def test_sliding_window_is_never_called_rewindable() -> None:
    worst = {"rewind 1": 0.0, "draft 2": 0.0}
    assert conclude(worst, has_window=False, complete=True).rewind
    windowed = conclude(worst, has_window=True, complete=True)
    assert (windowed.rewind, windowed.draft_batch) == (False, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"kv_type": "f16"},
        {"flash_attention": False},
        {"extra_buffers": True},
        {"threads": 1},
        {"chunk_tokens": 32},
        {"sequences": 8},
        {"gpu_layers": 3},
        {"experts_on_cpu": True},
    ],
)
def test_key_tells_every_setting_apart(change: dict[str, object]) -> None:
    assert replace(SETTINGS, **change).key("m/v") != SETTINGS.key("m/v")  # type: ignore[arg-type]
    assert SETTINGS.key("m/v").split()[0] == "m/v"
