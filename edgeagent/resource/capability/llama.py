"""What llama.cpp can do here: one setting changed at a time, against the plainest settings there are.

The plainest: weights mapped, no extra buffers, no flash attention, an f16 cache, no GPU. Quantised caches need flash
attention (llama.cpp refuses the values' cache without), so those trials have it on.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from edgeagent.execution.channel import Message
from edgeagent.resource.capability.engine import ProbeModel
from edgeagent.resource.capability.judging import Judged, Reading, agreement, misreading
from edgeagent.resource.capability.trial import TIMEOUT_S, Limits, Outcome, SpawnLimited, run_trial

ENGINE = "llama"
MIB = 2**20

TEXT = (
    "The lighthouse keeper wrote down the weather every morning. On Monday the wind came from the north and the sea was"
    " grey; on Tuesday it rained until noon, and two fishing boats waited in the harbour. He counted the barrels of"
    ' oil, cleaned the glass of the lamp, and climbed the stairs again before sunset. "A light that burns only in good'
    ' weather is of no use to anybody," he told the boy who brought the bread, "so we keep it ready when the sky is'
    ' clear." The boy asked how far the light could be seen. Twenty miles, said the keeper, if nobody forgets to wind'
    " the clock that turns it."
)
BATCH_TOKENS, SINGLE_TOKENS = 96, 32
"""Whole chunks, a part of one, and single tokens each have kernels of their own."""

ALL_LAYERS = 999
PLAIN: dict[str, object] = {
    "extra_buffers": False,
    "flash_attention": False,
    "kv_type": "f16",
    "gpu_layers": 0,
    "load_mode": "map",
}
CHANGES: dict[str, dict[str, object]] = {
    "gpu_layers": {"gpu_layers": ALL_LAYERS},
    "flash_attention": {"flash_attention": True},
    "kv_q8_0": {"flash_attention": True, "kv_type": "q8_0"},
    "extra_buffers": {"extra_buffers": True},
    "kv_q4_0": {"flash_attention": True, "kv_type": "q4_0"},
    "kv_f16": {},
    "mmap": {},
    "no_mmap": {"load_mode": "read"},
    "mlock": {"load_mode": "map and lock"},
}
"""Capability to what it changes, the most worthwhile first."""

FILE_COPIES = 3
SLACK_BYTES = 2 * 2**30
"""The limit is on address space (RLIMIT_AS), and counts a mapped file in full though its pages can always be dropped.
A trial may map the file, hold a repacked copy of it, and read or convert as much again; a worker without a model has
165 MB, each thread 64 MiB of arena and 8 MiB of stack, logits 4 bytes x vocabulary x 128. Measured for the 98 MB of
SmolLM2 Q4_1: 363 MB with one thread, 501 MB with two."""
COPY_TYPE = "Q4_0"
"""llama.cpp repacks it on Arm and on x86; a file of another type may leave the extra buffers empty, and untried."""
MAX_COPIED_BYTES = 256 * MIB
NOT_USED = "; none of this file's weights use them"

LOCKED_SHARE = 0.9
"""The tokenizer and the file's header need not stay in memory; the weights have to."""


class LlamaTrials:
    """Tries capabilities by name. The plain settings are read once, the build's features once."""

    engine = ENGINE
    names = tuple(CHANGES)

    def __init__(self, model: ProbeModel, spawn: SpawnLimited, timeout_s: float = TIMEOUT_S) -> None:
        self._model = model
        self._spawn = spawn
        self._model_bytes = model.path.stat().st_size
        self._limits = Limits(timeout_s, address_bytes=FILE_COPIES * self._model_bytes + SLACK_BYTES)
        self._plain: Outcome | None = None
        self._features: Outcome | None = None

    async def judge(self, name: str) -> Judged:
        """Never raises for what the worker does."""
        judged = await self.judge_file(name)
        if judged.verdict == "ok" and judged.reason.endswith(NOT_USED) and self._model_bytes <= MAX_COPIED_BYTES:
            return await self._judge_copy(judged)
        return judged

    async def judge_file(self, name: str) -> Judged:
        """The verdict with this very file."""
        if absence := await self._absence(name):
            return absence
        if self._plain is None:
            self._plain = await self._read({})
        if self._plain.reply is None:
            return Judged(self._plain.verdict, f"not even the plainest settings work: {self._plain.reason}")
        found = await self._read(CHANGES[name]) if CHANGES[name] else self._plain
        if found.reply is None:
            return Judged(found.verdict, found.reason)
        return self._compared(name, self._plain.reply, found.reply)

    async def _judge_copy(self, unused: Judged) -> Judged:
        """Extra buffers, tried again with a copy in the type that most of them take; `unused` if none can be made."""
        with tempfile.TemporaryDirectory() as folder:
            copy = replace(self._model, path=Path(folder) / "copy.gguf")
            files: dict[str, object] = {"source": str(self._model.path), "target": str(copy.path)}
            made = await run_trial(
                ENGINE, "quantize", limits=self._limits, spawn=self._spawn, kind=COPY_TYPE, threads=1, **files
            )
            if made.reply is None:
                return unused
            again = await LlamaTrials(copy, self._spawn, self._limits.timeout_s).judge_file("extra_buffers")
        return Judged(again.verdict, f"{again.reason} (with a {COPY_TYPE} copy)")

    async def _absence(self, name: str) -> Judged | None:
        """A verdict without a trial: the build has no such thing, or there is no device for it."""
        feature = {"gpu_layers": "gpu_offload", "mlock": "mlock", "mmap": "mmap"}.get(name)
        if feature is None:
            return None
        features = await self._known_features()
        if features.reply is None:
            return Judged(features.verdict, features.reason)
        if not features.reply[feature]:
            return Judged("absent", f"this build of llama.cpp has no {feature.replace('_', ' ')}")
        if name == "gpu_layers" and not features.reply["devices"]:
            return Judged("absent", "this build of llama.cpp can use a GPU, and sees none")
        return None

    async def _known_features(self) -> Outcome:
        if self._features is None:
            self._features = await run_trial(
                ENGINE, "features", limits=Limits(self._limits.timeout_s), spawn=self._spawn
            )
        return self._features

    async def _read(self, change: dict[str, object]) -> Outcome:
        # A GPU's runtime reserves addresses for all the memory of host and device (CUDA: unified virtual addressing).
        limits = Limits(self._limits.timeout_s) if change.get("gpu_layers") else self._limits
        parameters: dict[str, object] = {
            "path": str(self._model.path),
            "text": TEXT,
            "batch_tokens": BATCH_TOKENS,
            "single_tokens": SINGLE_TOKENS,
            "chunk_tokens": self._model.chunk_tokens,
            "threads": 1,
        }
        return await run_trial(ENGINE, "trial", limits=limits, spawn=self._spawn, **parameters | PLAIN | change)

    def _compared(self, name: str, plain: Message, found: Message) -> Judged:
        if wrong := misreading(_reading(plain), _reading(found)) or _broken_promise(name, found):
            return Judged("failed", wrong)
        same, total = agreement(_reading(plain), _reading(found)), len(plain["top1"])
        if not CHANGES[name]:
            return Judged("ok", f"{total} tokens, {found['nll']:.2f} nats each")
        told = f"{same} of {total} likeliest tokens are those of the plainest settings"
        if name == "extra_buffers" and found["buffers"] == plain["buffers"]:
            return Judged("ok", told + NOT_USED)
        if name != "gpu_layers":
            return Judged("ok", told)
        devices = self._devices()
        return Judged("ok", f"{told}, on {', '.join(devices.values())}", {backend(name): True for name in devices})

    def _devices(self) -> dict[str, str]:
        """Name and description of what layers were given to."""
        reply = self._features.reply if self._features else None
        return {str(d["name"]): str(d["description"]) for d in reply["devices"]} if reply else {}


def backend(device: str) -> str:
    """`CUDA` of `CUDA0`."""
    return device.rstrip("0123456789")


def _reading(reply: Message) -> Reading:
    return Reading(tuple(map(int, reply["top1"])), float(reply["nll"]), bool(reply["is_finite"]))


def _broken_promise(name: str, found: Message) -> str:
    """What llama.cpp was asked for and, without an error, did not do."""
    if name == "gpu_layers" and all(buffer.startswith("CPU") for buffer in found["buffers"]):
        return "no layer went to the GPU: the CPU did all the work"
    if name == "mmap" and not found["is_mapped"]:
        return "the file was read into memory, not mapped"
    if name == "no_mmap" and found["is_mapped"]:
        return "the file was mapped all the same"
    if name == "mlock" and found["locked_bytes"] < LOCKED_SHARE * found["model_bytes"]:
        locked, wanted = found["locked_bytes"] / MIB, found["model_bytes"] / MIB
        allowed = found["may_lock_bytes"]
        limit = "unlimited" if allowed < 0 else f"{allowed / MIB:.3g} MiB"
        return f"only {locked:.0f} of {wanted:.0f} MiB of weights stay locked (RLIMIT_MEMLOCK is {limit})"
    return ""
