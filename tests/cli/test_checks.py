"""What `doctor` makes of the engines' verdicts."""

import pytest

from edgeagent.cli.checks import check_batches, check_capabilities
from edgeagent.core.hardware import Capability, Cpu, EngineFacts, MemoryFacts, Profile, Storage, Verdict
from edgeagent.core.invariance import Invariance


def profile(engine: EngineFacts) -> Profile:
    return Profile(
        fingerprint="",
        board="a board",
        cpu=Cpu(model="a CPU", arch="x86_64", cores=1),
        memory=MemoryFacts(total_bytes=1, available_bytes=1),
        storage=Storage(path="/", free_bytes=1),
        engines=(engine,),
    )


def engine(name: str, *told: tuple[str, str, str], verdict: str = "ok", usable: bool = True) -> EngineFacts:
    capabilities = tuple(
        Capability.model_validate({"name": what, "verdict": verdict, "reason": reason, "at": "2026-03-01"})
        for what, verdict, reason in told
    )
    probe = Verdict.model_validate({"verdict": verdict, "reason": "why"})
    return EngineFacts(name=name, version="1", usable=usable, probe=probe, capabilities=capabilities)


def test_capabilities_are_told_with_what_is_missing_and_why() -> None:
    (check,) = check_capabilities(profile(engine("llama", ("mmap", "ok", "fine"), ("gpu_layers", "absent", "no GPU"))))
    assert (check.name, check.status, check.todo) == ("llama", "ok", "")
    assert check.reason == "can mmap; cannot gpu_layers absent (no GPU)"


@pytest.mark.parametrize(
    ("verdict", "reason", "status"),
    [
        ("crashed", "SIGSEGV", "warn"),
        ("hung", "no answer", "warn"),
        ("failed", "wrong results: 3 of 128", "warn"),
        ("failed", "it took none of the nodes", "ok"),
        ("absent", "no library", "ok"),
    ],
)
def test_capability_that_breaks_or_lies_is_a_warning(verdict: str, reason: str, status: str) -> None:
    (check,) = check_capabilities(profile(engine("litert", ("cpu", "ok", ""), ("vx", verdict, reason))))
    assert check.status == status
    assert bool(check.todo) is (status == "warn")


def test_spare_engine_that_is_not_installed_is_no_warning_and_a_broken_one_is() -> None:
    (absent,) = check_capabilities(profile(engine("litert", verdict="untested", usable=False)))
    (broken,) = check_capabilities(profile(engine("onnxruntime", verdict="crashed", usable=False)))
    assert (absent.status, broken.status) == ("ok", "warn")


def test_chat_engine_without_verdicts_has_no_second_line() -> None:
    assert check_capabilities(profile(engine("llama", verdict="untested", usable=False))) == []


def test_batches_are_told_with_why_answers_cannot_share_them() -> None:
    bare = profile(engine("llama"))
    assert check_batches(bare).reason == "not probed yet: the first answer with a model does it"
    verdicts = {
        "m/a kv_type=q8_0": Invariance(decode_batch=4, complete=True),
        "m/b kv_type=f16": Invariance(complete=True, max_abs_logit={"decode 2": 0.71, "draft 2": 3.0}),
        "m/c kv_type=f16": Invariance(),
    }
    check = check_batches(bare.model_copy(update={"invariance": verdicts}))
    assert (check.status, check.todo) == ("ok", "")
    assert check.reason == (
        "answers share batches: yes, up to 4 (m/a),"
        " no, because a batch changes their logits by up to 0.71 (m/b),"
        " no, because they were not tried together in the time there was (m/c)"
    )
