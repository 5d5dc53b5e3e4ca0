"""Sound from files of many kinds, and from a program that writes samples."""

import asyncio
import math
import sys
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import RequestError
from edgeagent.execution.audio import SAMPLE_RATE, alsa_command, read_wav, recorded_blocks, resampled, wav_blocks


def write_wav(path: Path, channels: Sequence[Sequence[int]], rate: int = SAMPLE_RATE, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(len(channels))
        sound.setsampwidth(width)
        sound.setframerate(rate)
        frames = array("h", [value for frame in zip(*channels, strict=True) for value in frame])
        sound.writeframes(frames.tobytes()[:: 3 - width])
    return path


def tone(rate: int, seconds: float, hertz: float = 440.0) -> list[int]:
    return [round(8000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(int(rate * seconds))]


def samples(blocks: Sequence[bytes]) -> "array[int]":
    found = array("h")
    found.frombytes(b"".join(blocks))
    return found


def test_mono_at_16_khz_is_passed_as_it_is(tmp_path: Path) -> None:
    sound = tone(SAMPLE_RATE, 2.3)
    assert list(samples(list(read_wav(write_wav(tmp_path / "a.wav", [sound]))))) == sound


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", [[100, -7, 32767], [300, 7, 32767]])
    assert list(samples(list(read_wav(path)))) == [200, 0, 32767]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_keep_the_tone_and_the_length(tmp_path: Path, rate: int) -> None:
    found = samples(list(read_wav(write_wav(tmp_path / "a.wav", [tone(rate, 2.5)], rate))))
    assert abs(len(found) - 2.5 * SAMPLE_RATE) <= 2
    expected = tone(SAMPLE_RATE, 2.5)
    shared = sum(a * b for a, b in zip(found, expected, strict=False))
    assert shared / math.sqrt(sum(a * a for a in found) * sum(b * b for b in expected[: len(found)])) > 0.98


@given(st.lists(st.integers(-32768, 32767), max_size=200), st.integers(8000, 192000))
def test_resampled_stays_within_the_range_of_what_it_was_given(sound: list[int], rate: int) -> None:
    found = samples([resampled(sound, rate)])
    assert len(found) == len(sound) * SAMPLE_RATE // rate
    assert all(min(sound) <= value <= max(sound) for value in found)


def test_tone_that_16_khz_cannot_hold_is_mostly_gone() -> None:
    found = samples([resampled(tone(48000, 1, 16000.0), 48000)])
    assert max(found) < 800  # of 8000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no WAV file"),
        (b"RIFF\0\0\0\0WAVE", "no WAV file"),
        (b"certainly no sound", "no WAV file"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_wav_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        list(read_wav(path))


def test_eight_bits_are_refused_with_advice(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", [[1, 2, 3]], width=1)
    with pytest.raises(RequestError, match="1 channels of 8 bits at 16000 Hz; convert it to 16 bits"):
        list(read_wav(path))


def collect(command: Sequence[str], limit: int = 0) -> list[bytes]:
    async def run() -> list[bytes]:
        found: list[bytes] = []
        stream = recorded_blocks(command)
        try:
            async for block in stream:
                found.append(block)
                if len(found) == limit:
                    break
        finally:
            await stream.aclose()
        return found

    return asyncio.run(run())


def test_recording_program_is_read_to_its_end_in_whole_samples(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(range(256)) * 40 + b"x")  # 10,241 bytes: half a sample more
    blocks = collect(["cat", str(raw)])
    assert b"".join(blocks) == raw.read_bytes()[:-1]
    assert len(blocks) == 4  # of 100 ms at most


def test_recording_that_never_ends_is_left_by_ending_the_program() -> None:
    forever = [sys.executable, "-c", "import sys\nwhile True: sys.stdout.buffer.write(bytes(3200))"]
    assert collect(forever, limit=3) == [bytes(3200)] * 3


def test_recording_program_that_fails_or_is_absent_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"sh ended with status 3 \(no such card\); check the device"):
        collect(["sh", "-c", "echo no such card >&2; exit 3"])
    with pytest.raises(RequestError, match=r"cannot start no-such-recorder .*; install it"):
        collect(["no-such-recorder"])


def test_alsa_command_asks_for_what_the_models_take() -> None:
    assert " ".join(alsa_command("hw:1")) == "arecord -q -D hw:1 -t raw -f S16_LE -r 16000 -c 1"


def test_wav_blocks_are_those_of_the_file(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", [tone(SAMPLE_RATE, 2.5)])

    async def run() -> list[bytes]:
        return [block async for block in wav_blocks(path)]

    assert asyncio.run(run()) == list(read_wav(path))
