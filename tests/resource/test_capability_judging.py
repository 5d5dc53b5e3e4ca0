"""What counts as right: comparisons, and accelerators that follow from verdicts."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.hardware import Accelerator, Capability, EngineFacts, Verdict
from edgeagent.resource.capability import with_usable
from edgeagent.resource.capability.judging import (
    MAX_RELATIVE_ERROR,
    Reading,
    deviation,
    floats,
    misreading,
    relative_error,
)

PLAIN = Reading(tuple(range(100)), 3.0, is_finite=True)


def changed(num_other: int, nll: float = 3.0) -> Reading:
    return Reading(tuple(range(100 - num_other)) + (-5,) * num_other, nll, is_finite=True)


def test_reading_like_the_measured_ones_is_right() -> None:
    assert misreading(PLAIN, changed(14, 3.03)) == ""  # the q4_0 cache of SmolLM2


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (changed(31), "69 of 100"),
        (changed(100), "0 of 100"),
        (changed(0, 3.6), "3.60 nats a token instead of 3.00"),
        (changed(0, math.nan), "nan"),
        (Reading((), 3.0, is_finite=True), "0 of 100"),
        (Reading(tuple(range(100)), 3.0, is_finite=False), "no numbers"),
    ],
)
def test_reading_that_differs_too_much_is_wrong(found: Reading, told: str) -> None:
    wrong = misreading(PLAIN, found)
    assert wrong.startswith("wrong results: ")
    assert told in wrong


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50).filter(lambda v: math.hypot(*v) > 1e-3))
def test_output_is_right_against_itself_and_wrong_when_twisted(values: list[float]) -> None:
    assert deviation(values, values) == ""
    assert deviation(values, [-v for v in values]).startswith("wrong results")
    assert deviation(values, values[:-1]).startswith("wrong results")
    assert deviation(values, [math.nan, *values[1:]]).startswith("wrong results")


def test_rounding_to_eight_bits_is_within_what_is_allowed() -> None:
    draw = random.Random(1)
    values = [draw.gauss(0, 1) for _ in range(1000)]
    rounded = [math.ldexp(round(math.ldexp(v, 8 - math.frexp(v)[1])), math.frexp(v)[1] - 8) for v in values]
    assert 0 < relative_error(values, rounded) < MAX_RELATIVE_ERROR / 10


def test_floats_are_read_as_written() -> None:
    assert list(floats(bytes.fromhex("0000803f000000c0"))) == [1.0, -2.0]


def engine(name: str, capability: str, verdict: str, flags: dict[str, bool] | None = None) -> EngineFacts:
    told = Capability.model_validate({"name": capability, "verdict": verdict, "reason": "because", "at": "2026-03-01"})
    probe = Verdict(verdict="ok", reason="")
    return EngineFacts(name=name, version="1", usable=True, probe=probe, capabilities=(told,), flags=flags or {})


def accelerator(runtime: str, kind: str = "gpu") -> Accelerator:
    return Accelerator.model_validate(
        {"kind": kind, "name": "chip", "runtime": runtime, "usable": False, "why": "seen"}
    )


@pytest.mark.parametrize(
    ("kind", "runtime", "facts", "usable", "why"),
    [
        ("gpu", "cuda", engine("llama", "gpu_layers", "ok", {"CUDA": True}), True, "llama gpu_layers: ok, because"),
        ("gpu", "cuda", engine("llama", "gpu_layers", "ok", {"Vulkan": True}), False, "seen"),
        ("gpu", "cuda", engine("llama", "gpu_layers", "absent"), False, "llama gpu_layers: absent, because"),
        (
            "gpu",
            "cuda",
            engine("onnxruntime", "CUDAExecutionProvider", "failed"),
            False,
            "onnxruntime CUDAExecutionProvider",
        ),
        ("tpu", "litert", engine("litert", "edgetpu", "ok"), True, "litert edgetpu: ok"),
        ("tpu", "litert", engine("litert", "xnnpack", "ok"), False, "seen"),
        ("npu", "litert", engine("litert", "edgetpu", "ok"), False, "seen"),
        ("npu", "mesa teflon", engine("litert", "teflon", "failed"), False, "litert teflon: failed"),
        ("npu", "hailort", engine("litert", "edgetpu", "ok"), False, "seen"),
    ],
)
def test_accelerator_is_usable_when_a_trial_on_it_succeeded(
    kind: str, runtime: str, facts: EngineFacts, usable: bool, why: str
) -> None:
    (found,) = with_usable([accelerator(runtime, kind)], [facts])
    assert found.usable is usable
    assert found.why.startswith(why)


def test_accelerator_with_one_success_among_failures_is_usable() -> None:
    facts = [
        engine("onnxruntime", "CUDAExecutionProvider", "crashed"),
        engine("llama", "gpu_layers", "ok", {"CUDA": True}),
    ]
    assert with_usable([accelerator("cuda")], facts)[0].usable
