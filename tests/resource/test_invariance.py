"""The verdict in the profile: under which key it is kept, when it is probed, and what a failing probe leaves."""

import asyncio
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.hardware import Cpu, EngineFacts, MemoryFacts, Profile, Rates, Storage, Verdict
from edgeagent.core.invariance import EvaluationSettings, Invariance
from edgeagent.execution.channel import Buffers, Received
from edgeagent.execution.supervisor import STALL_S, Worker
from edgeagent.resource.cache import load_profile
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.capability import ENGINE, ProbeModel
from edgeagent.resource.invariance import is_probed, probed, usual_evaluation, verdict
from edgeagent.resource.profile import Places, ensure_profile
from edgeagent.settings import load_settings
from tests.conftest import THREADS

EVALUATION = EvaluationSettings("q8_0", flash_attention=True, extra_buffers=False, threads=1, chunk_tokens=16)


class CrashingWorker(Worker):
    """A real worker that SIGSEGV hits as soon as it is to probe."""

    async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
        if op == "invariance":
            await super().call("fault", stall_s=stall_s, signal=int(signal.SIGSEGV))
        return await super().call(op, bulk, stall_s=stall_s, **params)


async def crashing() -> Worker:
    return await CrashingWorker.spawn(ENGINE)


async def no_worker() -> Worker:
    raise AssertionError("nothing was to be measured")


async def busy() -> float:
    """So that rates measured beside other work are kept."""
    return 1.0


def profile_of(key: str, *, flash_attention: bool = True) -> Profile:
    safe = {"extra_buffers": True, "flash_attention": flash_attention}
    return Profile(
        fingerprint="",
        board="",
        cpu=Cpu(model="", arch="x86_64", cores=2),
        memory=MemoryFacts(total_bytes=0, available_bytes=0),
        storage=Storage(path="/", free_bytes=0),
        engines=(
            EngineFacts(name=ENGINE, version="", usable=True, probe=Verdict(verdict="ok", reason="", settings=safe)),
        ),
        rates={key: Rates(prefill_tok_s=100, decode_tok_s=50, threads=2)},
    )


@pytest.mark.parametrize(("flash_attention", "kv_type"), [(True, "q8_0"), (False, "f16")])
def test_usual_settings_are_the_safe_ones_at_the_fastest_threads(flash_attention: bool, kv_type: str) -> None:
    model = ProbeModel("m/v", Path("m.gguf"), "q8_0", 64)
    usual = usual_evaluation(profile_of("m/v", flash_attention=flash_attention), model)
    assert usual == EvaluationSettings(
        kv_type, flash_attention=flash_attention, extra_buffers=True, threads=2, chunk_tokens=64
    )
    assert usual_evaluation(profile_of("another/v"), model) is None


def test_unprobed_settings_are_known_to_allow_nothing(model: ProbeModel) -> None:
    known = Invariance(decode_batch=4, complete=True)
    profile = profile_of(model.key).model_copy(update={"invariance": {EVALUATION.key(model.key): known}})
    assert verdict(profile, model.key, EVALUATION) == known
    assert verdict(profile, model.key, replace(EVALUATION, chunk_tokens=32)) == Invariance()
    assert verdict(profile, "another/v", EVALUATION) == Invariance()


def test_probe_without_time_counts_as_made_but_not_as_whole(model: ProbeModel) -> None:
    asked = replace(model, evaluation=EVALUATION)
    before = profile_of(model.key)
    assert is_probed(before, model)
    assert not is_probed(before, asked)
    after = asyncio.run(probed(before, asked, spawn=lambda: Worker.spawn(ENGINE), budget_s=0))
    assert verdict(after, model.key, EVALUATION) == Invariance()
    assert is_probed(after, asked)
    assert not is_probed(after, asked, wholly=True)


def test_crash_of_the_probe_leaves_the_safest_verdict_and_says_why(
    model: ProbeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")
    asked = replace(model, evaluation=EVALUATION)
    after = asyncio.run(probed(profile_of(model.key), asked, spawn=crashing))
    assert after.invariance == {EVALUATION.key(model.key): Invariance()}
    assert is_probed(after, asked)
    assert "died" in after.gaps[f"invariance.{model.key}"]


def test_verdict_is_kept_with_the_profile_and_not_probed_again(measured_profile: Path, model: ProbeModel) -> None:
    kept = load_profile(measured_profile)
    assert kept is not None
    usual = usual_evaluation(kept, model)
    assert usual is not None
    probed_with = replace(usual, threads=THREADS)
    assert probed_with.key(model.key) in kept.invariance
    folder = measured_profile.parent
    places = Places(folder, measured_profile, load_settings(environment={}).paths.boards)
    instruments = Instruments(time.monotonic, no_worker, busy)
    asked = replace(model, evaluation=probed_with)
    again = asyncio.run(ensure_profile(places, asked, refresh=False, instruments=instruments))
    assert again.invariance == kept.invariance
