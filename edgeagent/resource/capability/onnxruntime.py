"""What ONNX Runtime can do here: each execution provider of the build runs a model, and is compared with the CPU's."""

from pathlib import Path

from edgeagent.resource.capability.judging import Judged, deviation, floats, relative_error
from edgeagent.resource.capability.trial import TIMEOUT_S, Limits, Outcome, SpawnLimited, run_trial

ENGINE = "onnxruntime"
WORKER = "onnx"
CPU = "CPUExecutionProvider"
ADDRESS_BYTES = 4 * 2**30
"""Measured on the CPU: 196 MB of address space with the tiny model, 407 MB with MiniLM (a 23 MB file). Room for a
larger encoder, and for an arena of 64 MiB a thread. Other providers have no such limit: GPU runtimes reserve addresses
for all the memory there is."""


class OnnxTrials:
    """Tries providers by name."""

    engine = ENGINE

    def __init__(self, model: Path | None, spawn: SpawnLimited, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._model = model
        self._spawn = spawn
        self._cpu: Outcome | None = None

    async def providers(self) -> Outcome:
        """Asks a worker what the build brings: `{version, providers}`."""
        return await run_trial(WORKER, "providers", limits=Limits(self._timeout_s), spawn=self._spawn)

    async def judge(self, name: str) -> Judged:
        """Never raises for what the worker does."""
        if self._cpu is None:
            self._cpu = await self._run(CPU)
        if self._cpu.reply is None:
            return Judged(self._cpu.verdict, f"not even the CPU's works: {self._cpu.reason}")
        found = self._cpu if name == CPU else await self._run(name)
        if found.reply is None:
            return Judged(found.verdict, found.reason)
        return self._compared(name, self._cpu, found)

    async def _run(self, provider: str) -> Outcome:
        limits = Limits(self._timeout_s, ADDRESS_BYTES if provider == CPU else 0)
        path = str(self._model) if self._model else ""
        return await run_trial(WORKER, "trial", limits=limits, spawn=self._spawn, provider=provider, model=path)

    def _compared(self, name: str, cpu: Outcome, found: Outcome) -> Judged:
        assert found.reply is not None
        nodes: dict[str, int] = found.reply["nodes"]
        mine, total = nodes.get(name, 0), sum(nodes.values())
        if name not in found.reply["session_providers"]:
            return Judged("failed", "it did not start: ONNX Runtime fell back to the CPU without an error")
        if not mine:
            return Judged("failed", f"it took none of the model's {total} nodes: the CPU ran them all")
        reference, output = floats(cpu.bulk), floats(found.bulk)
        if wrong := deviation(reference, output):
            return Judged("failed", wrong)
        what = f"{mine} of {total} nodes of {self._model.parent.name if self._model else 'a tiny model'}"
        off = "" if name == CPU else f", {relative_error(reference, output):.2%} off the CPU's output"
        return Judged("ok", what + off)
