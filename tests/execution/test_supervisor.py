"""Workers that die, stop, hang, drain: real processes, real signals."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeagent.core.errors import EngineError, EngineLostError
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loss import Cause
from edgeagent.execution.supervisor import Worker
from edgeagent.execution.vitals import Patience
from edgeagent.model.store import StoredVariant

EAGER = Patience(floor_s=0.6, unknown_s=0.6, factor=2.0, stopped_s=0.2, tick_s=0.1)


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


NO_LIMITS = WorkerLimits()


@contextlib.asynccontextmanager
async def worker(patience: Patience = EAGER, limits: WorkerLimits = NO_LIMITS) -> AsyncIterator[Worker]:
    started = await Worker.spawn("llama", is_quiet=True, patience=patience, limits=limits)
    try:
        await started.call("version")
        yield started
    finally:
        await started.close()


def run(use: Callable[[Worker], Awaitable[None]], patience: Patience = EAGER) -> None:
    async def body() -> None:
        async with worker(patience) as started:
            await use(started)

    asyncio.run(body())


async def loss(started: Worker, **fault: Any) -> str:
    """What a step-telling call ends with when the worker meets a fault."""
    with pytest.raises(EngineLostError) as caught:
        async for _ in started.stream("fault", **fault):
            pass
    return str(caught.value)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGSEGV, Cause.CRASHED),
        (signal.SIGABRT, Cause.CRASHED),
        (signal.SIGBUS, Cause.CRASHED),
        (signal.SIGKILL, Cause.KILLED),
        (signal.SIGTERM, Cause.KILLED),
        (signal.SIGXCPU, Cause.OVERRAN),
    ],
)
def test_worker_that_dies_is_lost_at_once_with_its_cause(number: signal.Signals, cause: Cause) -> None:
    async def use(started: Worker) -> None:
        assert f"exit {-number}" in await loss(started, signal=int(number))
        assert started.cause is cause
        assert is_gone(started.pid)

    run(use)


def test_worker_that_is_stopped_is_killed_and_was_no_crash() -> None:
    async def use(started: Worker) -> None:
        assert "was stopped" in await loss(started, signal=int(signal.SIGSTOP))
        assert started.cause is Cause.STOPPED
        assert is_gone(started.pid)

    run(use)


@pytest.mark.parametrize("hang", ["spin", "deadlock"])
def test_worker_that_hangs_is_killed(hang: str) -> None:
    async def use(started: Worker) -> None:
        assert "made no progress" in await loss(started, hang=hang)
        assert started.cause is Cause.STUCK
        assert is_gone(started.pid)

    run(use)


def test_every_call_that_waits_for_a_hung_worker_fails() -> None:
    async def use(started: Worker) -> None:
        calls = [asyncio.create_task(started.call("version")) for _ in range(3)]
        await asyncio.gather(*calls)
        hung = asyncio.create_task(loss(started, hang="deadlock"))
        await asyncio.sleep(0)
        others = [asyncio.create_task(started.call("version", stall_s=1000.0)) for _ in range(3)]
        await hung
        for other in others:
            with pytest.raises(EngineLostError):
                await other

    run(use)


def test_one_long_step_makes_the_supervisor_wait_longer(smollm2: StoredVariant) -> None:
    async def use(started: Worker) -> None:
        started.watch.step_s = 600.0
        waiting = asyncio.create_task(loss(started, hang="spin"))
        await asyncio.sleep(8 * EAGER.floor_s)
        assert not waiting.done()
        await started.close()
        await waiting

    run(use)


def test_stopped_worker_that_goes_on_in_time_is_kept() -> None:
    async def use(started: Worker) -> None:
        os.kill(started.pid, signal.SIGSTOP)
        call = asyncio.create_task(started.call("version"))
        await asyncio.sleep(0.3)
        os.kill(started.pid, signal.SIGCONT)
        await call
        assert started.is_alive

    run(use, Patience(stopped_s=30.0, tick_s=0.1))


def test_nothing_is_scheduled_while_nothing_is_pending() -> None:
    async def use(started: Worker) -> None:
        await started.call("version")
        with pytest.raises(EngineError):
            await started.call("no such operation")
        assert not [h for h in vars(asyncio.get_running_loop())["_scheduled"] if not h.cancelled()]
        os.kill(started.pid, signal.SIGSTOP)  # nobody looks: an idle worker that is stopped stays
        await asyncio.sleep(5 * EAGER.stopped_s)
        assert started.is_alive

    run(use)


def test_message_to_a_stopped_worker_whose_channel_is_full_does_not_wait_for_ever() -> None:
    async def use(started: Worker) -> None:
        os.kill(started.pid, signal.SIGSTOP)
        calls = [asyncio.create_task(started.call("count", texts=["x" * 60_000])) for _ in range(40)]
        for call in calls:
            with pytest.raises(EngineLostError):
                await call
        assert started.cause is Cause.STOPPED

    run(use)


def limits_of(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()[1:]
    return {row[:26].strip(): row[26:47].strip() for row in rows}


def test_worker_runs_under_the_limits_it_was_given() -> None:
    given = WorkerLimits(address_bytes=2 * 2**30, data_bytes=2**30, cpu_s=500, nice=3, oom_score=300)

    async def body() -> None:
        async with worker(limits=given) as started:
            kept = limits_of(started.pid)
            assert kept["Max address space"] == str(given.address_bytes)
            assert kept["Max data size"] == str(given.data_bytes)
            assert kept["Max cpu time"] == str(given.cpu_s)
            assert kept["Max core file size"] == "0"
            own = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))  # noqa: ASYNC240
            adjusted = Path(f"/proc/{started.pid}/oom_score_adj").read_text(encoding="ascii")  # noqa: ASYNC240
            assert int(adjusted) == min(1000, own + 300)
            nice = os.getpriority(os.PRIO_PROCESS, started.pid)
            assert nice == min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + 3)

    asyncio.run(body())


def test_worker_that_uses_up_its_cpu_time_is_ended_by_the_kernel() -> None:
    async def body() -> None:
        async with worker(Patience(), WorkerLimits(cpu_s=2)) as started:
            await loss(started, hang="spin")
            assert started.cause is Cause.OVERRAN

    asyncio.run(body())
