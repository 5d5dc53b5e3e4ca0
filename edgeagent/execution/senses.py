"""Ears and eyes for the daemon: each has one worker, takes sound or images, and gives typed events."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgeagent.core.listening import SpeechFinder, WakeFinder
from edgeagent.core.perception import FaceSeen, SpeechSegment, WakeWord
from edgeagent.execution.camera import Picture
from edgeagent.execution.supervisor import Worker

FLOAT32_BYTES = 4
SURE = 1.0


class Ear(Protocol):
    """Hears one stream from beginning to end."""

    async def hear(self, samples: bytes) -> list[SpeechSegment | WakeWord]:
        """Events that are certain now; 16-bit mono samples at 16 kHz. Raises EngineError, EngineLostError."""
        ...

    def finish(self) -> list[SpeechSegment | WakeWord]:
        """What the end of the stream makes certain."""
        ...

    async def close(self) -> None: ...


class VoiceEar:
    """Speech segments, by the ONNX worker."""

    def __init__(self, worker: Worker, finder: SpeechFinder) -> None:
        self._worker = worker
        self._finder = finder

    @classmethod
    async def open(cls, model: Path) -> "VoiceEar":
        """Raises EngineError, ModelFileError."""
        worker = await Worker.spawn("onnx")
        facts = await _loaded(worker, "voice_load", model=str(model))
        return cls(worker, SpeechFinder(float(str(facts["chunk_s"]))))

    async def hear(self, samples: bytes) -> list[SpeechSegment | WakeWord]:
        _, bulk = await self._worker.call("voice", [samples])
        return list(self._finder.feed(_floats(bulk)))

    def finish(self) -> list[SpeechSegment | WakeWord]:
        return list(self._finder.finish())

    async def close(self) -> None:
        await self._worker.close()


class WakeEar:
    """One wake word, by the LiteRT worker."""

    def __init__(self, worker: Worker, finder: WakeFinder) -> None:
        self._worker = worker
        self._finder = finder

    @classmethod
    async def open(cls, model: Path, manifest: Path) -> "WakeEar":
        """Raises EngineError (LiteRT or the features' library is missing), ModelFileError."""
        worker = await Worker.spawn("litert", is_quiet=True)  # LiteRT greets on stderr
        facts = await _loaded(worker, "wake_load", model=str(model), manifest=str(manifest))
        cutoff, first_s, stride_s = (float(str(facts[key])) for key in ("cutoff", "first_s", "stride_s"))
        return cls(worker, WakeFinder(str(facts["phrase"]), cutoff, int(str(facts["window"])), first_s, stride_s))

    async def hear(self, samples: bytes) -> list[SpeechSegment | WakeWord]:
        _, bulk = await self._worker.call("wake", [samples])
        return list(self._finder.feed(_floats(bulk)))

    def finish(self) -> list[SpeechSegment | WakeWord]:
        return []

    async def close(self) -> None:
        await self._worker.close()


class FaceEye:
    """Faces, by the LiteRT worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @classmethod
    async def open(cls, model: Path, delegate: str = "") -> "FaceEye":
        """Raises EngineError (LiteRT is missing), ModelFileError."""
        worker = await Worker.spawn("litert", is_quiet=True)  # LiteRT greets on stderr
        await _loaded(worker, "faces_load", model=str(model), delegate=delegate)
        return cls(worker)

    async def see(self, picture: Picture) -> list[FaceSeen]:
        """The surest first. Raises RequestError for what is no image, EngineError, EngineLostError."""
        facts, _ = await self._worker.call("faces", [picture.content], name=picture.source)
        return [FaceSeen(source=picture.source, **face) for face in facts["faces"]]

    async def close(self) -> None:
        await self._worker.close()


async def _loaded(worker: Worker, op: str, **params: object) -> dict[str, object]:
    """The facts of a load; the worker is gone when it failed."""
    facts: dict[str, object] | None = None
    try:
        facts, _ = await worker.call(op, [], stall_s=60.0, **params)
    finally:
        if facts is None:
            await worker.close()
    return facts


def _floats(bulk: bytes) -> Iterator[float]:
    return (min(value, SURE) for value in array("f", bulk))
