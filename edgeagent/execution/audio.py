"""Sound as 16-bit mono samples at 16 kHz, a second at a time: from a WAV file, or from a program that records."""

import asyncio
import contextlib
import sys
import wave
from array import array
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from edgeagent.core.errors import RequestError

SAMPLE_RATE = 16000
SAMPLE_BYTES = 2
BLOCK_BYTES = SAMPLE_RATE * SAMPLE_BYTES
RATES = range(8000, 192001)
MAX_CHANNELS = 32


async def wav_blocks(path: Path) -> AsyncGenerator[bytes, None]:
    """A WAV file, read aside. Other rates are resampled, channels averaged; raises RequestError for other formats."""
    blocks = read_wav(path)
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block


def read_wav(path: Path) -> Iterator[bytes]:
    """Blocks of one second, the last one shorter."""
    try:
        with path.open("rb") as file, wave.open(file) as sound:
            channels, rate = _checked(sound, path)
            while frames := sound.readframes(rate):
                yield resampled(_mono(frames, channels), rate)
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}); name a readable file") from None
    except (wave.Error, EOFError) as error:
        raise RequestError(f"{path} is no WAV file of plain samples ({error or 'it ends early'}); convert it") from None


def _checked(sound: wave.Wave_read, path: Path) -> tuple[int, int]:
    channels, width, rate = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
    if width != SAMPLE_BYTES or channels > MAX_CHANNELS or rate not in RATES:
        what = f"{path} has {channels} channels of {8 * width} bits at {rate} Hz"
        raise RequestError(f"{what}; convert it to 16 bits at 16000 Hz, for instance with sox")
    return channels, rate


def _mono(frames: bytes, channels: int) -> "array[int]":
    samples = array("h")
    samples.frombytes(frames[: len(frames) // (SAMPLE_BYTES * channels) * SAMPLE_BYTES * channels])
    if sys.byteorder == "big":
        samples.byteswap()
    if channels == 1:
        return samples
    sides = (samples[side::channels] for side in range(channels))
    return array("h", (sum(frame) // channels for frame in zip(*sides, strict=True)))


def resampled(samples: Sequence[int], rate: int) -> bytes:
    """16 kHz from `rate`: each new sample is the mean of the time it covers, between samples on a straight line.

    The mean keeps out most of what 16 kHz cannot hold; a recording studio would use a longer filter.
    """
    if rate == SAMPLE_RATE or not samples:
        return array("h", samples).tobytes()
    sums = [0, *accumulate(samples)]
    width = max(1.0, rate / SAMPLE_RATE)
    count = len(samples) * SAMPLE_RATE // rate
    return array("h", (_mean(sums, i * rate / SAMPLE_RATE, width) for i in range(count))).tobytes()


def _mean(sums: list[int], start: float, width: float) -> int:
    end = min(start + width, len(sums) - 1)
    start = end - width
    return round((_integral(sums, end) - _integral(sums, start)) / width)


def _integral(sums: list[int], position: float) -> float:
    whole = min(max(int(position), 0), len(sums) - 2)
    return sums[whole] + (position - whole) * (sums[whole + 1] - sums[whole])


def alsa_command(device: str) -> list[str]:
    """Records until it is stopped; `arecord` is in Debian's package alsa-utils."""
    kind = ["-t", "raw", "-f", "S16_LE", "-r", str(SAMPLE_RATE), "-c", "1"]
    return ["arecord", "-q", "-D", device, *kind]


async def recorded_blocks(command: Sequence[str], block_bytes: int = BLOCK_BYTES // 10) -> AsyncGenerator[bytes, None]:
    """What a recording program writes, until it ends. Raises RequestError when it is not there, or fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise RequestError(f"cannot start {command[0]} ({error.strerror}); install it (alsa-utils)") from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while block := await _whole_samples(process.stdout, block_bytes):
            yield block
        complaint = (await process.stderr.read(4096)).decode(errors="replace").strip()
        if status := await process.wait():
            raise RequestError(f"{command[0]} ended with status {status} ({complaint}); check the device")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _drained(process.stdout, process.stderr)
        await process.wait()


async def _drained(*streams: asyncio.StreamReader) -> None:
    """Read what a killed program left. asyncio counts it as ended only once its pipes are, and a full one is paused."""
    for stream in streams:
        while await stream.read(65536):
            pass


async def _whole_samples(stream: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await stream.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial[: len(error.partial) // SAMPLE_BYTES * SAMPLE_BYTES]
