"""Real workers that a real fault hits: when an operation's parameters are those of the trial that is to break."""

import signal
from collections.abc import Callable

from edgeagent.execution.channel import Buffers, Message, Received
from edgeagent.execution.supervisor import STALL_S, Worker
from edgeagent.resource.capability.trial import Limits, SpawnLimited, spawn_limited

Hit = Callable[[str, Message], bool]
"""Whether an operation with these parameters is hit."""


def spawn_faulty(hit: Hit, fault: signal.Signals, spawned: list[Worker] | None = None) -> SpawnLimited:
    """Workers that get `fault` right before what `hit` picks. Needs EDGEAGENT_FAULTS=1."""

    class FaultyWorker(Worker):
        async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
            if hit(op, params):
                await super().call("fault", stall_s=stall_s, signal=int(fault))
            return await super().call(op, bulk, stall_s=stall_s, **params)

    return _spawner(FaultyWorker, spawned)


def spawn_changed(change: Callable[[str, Message], Message]) -> SpawnLimited:
    """Workers that are asked something else: `change` gives the parameters that really reach them."""

    class DeceivedWorker(Worker):
        async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
            return await super().call(op, bulk, stall_s=stall_s, **change(op, params))

    return _spawner(DeceivedWorker, None)


def _spawner(kind: type[Worker], spawned: list[Worker] | None) -> SpawnLimited:
    async def spawn(engine: str, limits: Limits) -> Worker:
        worker = await spawn_limited(engine, limits, kind)
        if spawned is not None:
            spawned.append(worker)
        return worker

    return spawn
