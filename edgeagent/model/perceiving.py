"""Which models hear and see, fetched into the store when they are first needed."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import EngineFacts
from edgeagent.core.perception import SpeechSegment, WakeWord
from edgeagent.execution.senses import Ear, FaceEye, VoiceEar, WakeEar
from edgeagent.model.store import ModelStore

VOICE, WAKE, FACES = "silero-vad", "okay-nabu-wake-word", "face-detection-short-range"
XNNPACK = "xnnpack"


@dataclass(frozen=True, slots=True)
class Ears:
    """Those that could be opened; `missing` maps a model to the reason why it was not."""

    ears: dict[str, Ear]
    missing: dict[str, str]

    async def hear(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[SpeechSegment | WakeWord]:
        """Events as they become certain, until the sound ends."""
        async for block in blocks:
            for ear in self.ears.values():
                for heard in await ear.hear(block):
                    yield heard
        for ear in self.ears.values():
            for heard in ear.finish():
                yield heard


@contextlib.asynccontextmanager
async def open_ears(store: ModelStore) -> AsyncIterator[Ears]:
    """Voice activity, and the wake word where its libraries are. Raises what opening the first raises."""
    async with contextlib.AsyncExitStack() as stack:
        voice = await VoiceEar.open((await store.ensure(VOICE)).path)
        stack.push_async_callback(voice.close)
        ears: dict[str, Ear] = {VOICE: voice}
        missing: dict[str, str] = {}
        try:
            wake = await _open_wake(store)
        except EdgeAgentError as error:
            missing[WAKE] = str(error)
        else:
            stack.push_async_callback(wake.close)
            ears[WAKE] = wake
        yield Ears(ears, missing)


async def _open_wake(store: ModelStore) -> WakeEar:
    stored = await store.ensure(WAKE)
    return await WakeEar.open(stored.path, next(iter(stored.companions.values())))


@contextlib.asynccontextmanager
async def open_eye(store: ModelStore, litert: EngineFacts | None) -> AsyncIterator[FaceEye]:
    """Faces, with XNNPACK where the profile has seen it work. Raises EdgeAgentError."""
    delegate = XNNPACK if litert is not None and litert.can(XNNPACK) else ""
    eye = await FaceEye.open((await store.ensure(FACES)).path, delegate)
    try:
        yield eye
    finally:
        await eye.close()
