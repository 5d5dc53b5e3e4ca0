"""Ears and eyes with the real models, in real workers, over real speech and a real face."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError, ModelFileError, RequestError
from edgeagent.core.perception import FaceSeen, SpeechSegment, WakeWord
from edgeagent.execution.camera import Picture
from edgeagent.execution.senses import FaceEye, VoiceEar, WakeEar
from edgeagent.execution.supervisor import Worker
from edgeagent.model.perceiving import FACES, VOICE, WAKE, open_ears, open_eye
from edgeagent.model.store import ModelStore
from edgeagent.resource.capability.trial import ABSENT, engine_builds
from tests.recordings import noise, photograph, say, silence

needs_litert = pytest.mark.skipif(
    engine_builds()["litert"] == ABSENT, reason="LiteRT is not installed here (pip install 'edgeagent[litert]')"
)


async def _pieces(sound: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(sound), size):
        yield sound[start : start + size]


def hear(store: ModelStore, parts: Sequence[bytes], piece_bytes: int = 3200) -> list[SpeechSegment | WakeWord]:
    async def run() -> list[SpeechSegment | WakeWord]:
        async with open_ears(store) as ears:
            return [heard async for heard in ears.hear(_pieces(b"".join(parts), piece_bytes))]

    return asyncio.run(run())


def see(store: ModelStore, content: bytes) -> list[FaceSeen]:
    async def run() -> list[FaceSeen]:
        async with open_eye(store, None) as eye:
            return await eye.see(Picture("it", content))

    return asyncio.run(run())


def speech(heard: Sequence[SpeechSegment | WakeWord]) -> list[SpeechSegment]:
    return [event for event in heard if isinstance(event, SpeechSegment)]


def test_speech_between_silence_is_found_where_it_is(embedded_store: ModelStore) -> None:
    said = say("Good morning everybody.")
    length_s = len(said) / 32000
    found = speech(hear(embedded_store, [silence(1), said, silence(1.5), said, silence(1)]))
    first = [s for s in found if s.end_s < 1 + length_s + 0.75]
    second = [s for s in found if s.start_s > 1 + length_s + 0.75]
    assert first
    assert second
    assert len(first) + len(second) == len(found)
    assert 0.9 < first[0].start_s < 1.3
    assert first[-1].end_s < 1 + length_s + 0.3
    assert second[0].start_s > 1 + length_s + 1.4


@pytest.mark.parametrize("loudness", [0, 30, 2000])
def test_silence_and_noise_are_no_speech_and_no_wake_word(embedded_store: ModelStore, loudness: float) -> None:
    assert hear(embedded_store, [noise(4, loudness)]) == []


@needs_litert
def test_wake_word_is_heard_when_it_was_said_and_not_in_other_words(embedded_store: ModelStore) -> None:
    said, other = say("Okay Nabu"), say("Okay, never mind the boat. Will it rain today?")
    before_s = 1.5 + len(other) / 32000 + 1.5
    heard = hear(embedded_store, [silence(1.5), other, silence(1.5), said, silence(1.5)])
    [word] = [event for event in heard if isinstance(event, WakeWord)]
    assert word.phrase == "Okay Nabu"
    assert before_s < word.at_s < before_s + len(said) / 32000 + 0.5
    assert word.probability > 0.97


@needs_litert
def test_what_is_heard_does_not_depend_on_how_the_sound_is_cut(embedded_store: ModelStore) -> None:
    parts = [silence(1), say("Okay Nabu"), silence(1)]
    whole = hear(embedded_store, parts, 10**9)
    assert whole
    key = lambda event: (event.kind, event.probability)  # noqa: E731  (the ears take turns, so only the order may differ)
    for piece_bytes in (2 * 777, 2 * 16000):
        assert sorted(hear(embedded_store, parts, piece_bytes), key=key) == sorted(whole, key=key)


@needs_litert
def test_face_is_found_where_it_is(embedded_store: ModelStore, models_dir: Path) -> None:
    [face] = see(embedded_store, photograph(models_dir / "test-images").read_bytes())
    # Where a person sees it in the picture of 512 x 512 pixels.
    assert 0.30 < face.left < 0.40 < 0.48 < face.right < 0.58
    assert 0.10 < face.top < 0.20 < 0.30 < face.bottom < 0.40
    points = face.landmarks
    assert points["right_eye"][0] < points["nose_tip"][0] < points["left_eye"][0]
    assert points["right_eye"][1] < points["nose_tip"][1] < points["mouth"][1]
    assert face.probability > 0.8


@needs_litert
def test_face_keeps_its_place_when_the_picture_is_wide(embedded_store: ModelStore, models_dir: Path) -> None:
    from PIL import Image

    photo = Image.open(photograph(models_dir / "test-images")).convert("RGB")
    [straight] = see(embedded_store, _png(photo))
    wide = Image.new("RGB", (768, 512))
    wide.paste(photo, (256, 0))
    [moved] = see(embedded_store, _png(wide))
    assert moved.left * 768 == pytest.approx(256 + straight.left * 512, abs=20)
    assert moved.bottom * 512 == pytest.approx(straight.bottom * 512, abs=20)


def _png(image: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # type: ignore[attr-defined]
    return buffer.getvalue()


@needs_litert
@pytest.mark.parametrize("kind", ["noise", "black", "one pixel"])
def test_no_face_is_seen_where_there_is_none(embedded_store: ModelStore, kind: str) -> None:
    from PIL import Image

    side = 1 if kind == "one pixel" else 200
    content = random.Random(4).randbytes(3 * side * side) if kind == "noise" else bytes(3 * side * side)
    assert see(embedded_store, _png(Image.frombytes("RGB", (side, side), content))) == []


@needs_litert
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_image_is_refused_and_the_eye_lives_on(embedded_store: ModelStore, content: bytes) -> None:
    from PIL import Image

    async def run() -> None:
        async with open_eye(embedded_store, None) as eye:
            with pytest.raises(RequestError, match=r"it (is no image|cannot be read)"):
                await eye.see(Picture("it", content))
            assert await eye.see(Picture("black", _png(Image.new("RGB", (64, 64))))) == []

    asyncio.run(run())


@needs_litert
def test_image_of_too_many_pixels_is_refused_before_it_is_unpacked(embedded_store: ModelStore) -> None:
    header = b"P6 100000 100000 255\n"
    with pytest.raises(RequestError, match="it has 100000 x 100000 pixels; scale it down"):
        see(embedded_store, header + bytes(1000))


Open = Callable[[Path], Coroutine[object, object, object]]


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(VoiceEar.open, id="voice"),
        pytest.param(lambda path: WakeEar.open(path, path), id="wake", marks=needs_litert),
        pytest.param(FaceEye.open, id="face", marks=needs_litert),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_broken_model_is_a_model_file_error(tmp_path: Path, opened: Open, content: bytes | None) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="fetch the model again"):
        asyncio.run(opened(path))


@needs_litert
def test_model_of_another_kind_is_a_model_file_error(embedded_store: ModelStore) -> None:
    async def run() -> None:
        faces, wake = await embedded_store.ensure(FACES), await embedded_store.ensure(WAKE)
        manifest = next(iter(wake.companions.values()))
        with pytest.raises(ModelFileError, match="another model"):
            await FaceEye.open(wake.path)
        with pytest.raises(ModelFileError, match="no wake word"):
            await WakeEar.open(faces.path, manifest)
        with pytest.raises(ModelFileError, match="no manifest"):
            await WakeEar.open(wake.path, wake.path)

    asyncio.run(run())


@pytest.mark.parametrize(("engine", "op"), [("onnx", "voice"), ("litert", "wake"), ("litert", "faces")])
def test_engine_asked_before_loading_says_so(engine: str, op: str) -> None:
    async def run() -> None:
        worker = await Worker.spawn(engine)
        try:
            with pytest.raises(EngineError, match=f"call {op}_load first"):
                await worker.call(op)
        finally:
            await worker.close()

    asyncio.run(run())


def test_ears_without_the_wake_words_library_hear_speech_and_say_what_is_missing(
    embedded_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pymicro_features.py").write_text("raise ModuleNotFoundError('gone', name='pymicro_features')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def run() -> None:
        async with open_ears(embedded_store) as ears:
            assert list(ears.ears) == [VOICE]
            assert "wake words need pymicro_features; pip install 'edgeagent[perception]'" in ears.missing[WAKE]
            assert [e async for e in ears.hear(_pieces(silence(1), 3200))] == []

    asyncio.run(run())
