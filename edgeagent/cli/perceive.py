"""`edgeagent perceive`: what a recording or an image holds, as typed events."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TypeVar

import click

from edgeagent import parts
from edgeagent.cli.options import json_option, print_json, run, with_settings
from edgeagent.core.perception import FaceSeen, SpeechSegment, WakeWord
from edgeagent.execution.audio import BLOCK_BYTES, alsa_command, recorded_blocks, wav_blocks
from edgeagent.execution.camera import Picture, camera_command, captured_picture, file_pictures
from edgeagent.model.perceiving import open_ears, open_eye
from edgeagent.resource.cache import load_profile
from edgeagent.settings import Settings

ALSA, V4L2 = "alsa:", "v4l2:"
R = TypeVar("R")


@click.group()
def perceive() -> None:
    """Hear and see: speech and wake words in sound, faces in images."""


@perceive.command()
@click.argument("path", metavar="PATH")
@click.option("--seconds", type=click.FloatRange(min=0.1), metavar="S", help="Stop after so much sound.")
@json_option
@with_settings
def wav(settings: Settings, path: str, seconds: float | None, as_json: bool) -> None:
    """Print speech and wake words in the WAV file PATH (16 bits; or 'alsa:DEVICE', for instance alsa:default)."""
    if path.startswith(ALSA) and seconds is None:
        raise click.UsageError("a device never ends; say --seconds S")
    run(_hear(settings, path, seconds, as_json=as_json))


@perceive.command()
@click.argument("path", metavar="PATH")
@json_option
@with_settings
def image(settings: Settings, path: str, as_json: bool) -> None:
    """Print the faces in the image PATH, in a folder's images, or in a picture of a camera ('v4l2:/dev/video0')."""
    run(_see(settings, path, as_json=as_json))


async def _hear(settings: Settings, path: str, seconds: float | None, *, as_json: bool) -> None:
    events: list[SpeechSegment | WakeWord] = []
    clock = Clock(seconds)
    async with contextlib.AsyncExitStack() as stack:
        sound = _sound(path)
        stack.push_async_callback(sound.aclose)
        first = await anext(sound, b"")  # a bad file or a missing device is told before any model is fetched
        ears = await stack.enter_async_context(open_ears(parts.model_store(settings)))
        for model, reason in ears.missing.items():
            click.echo(f"without {model}: {reason}", err=True)
        async for heard in ears.hear(clock.ticking(first, sound)):
            events.append(heard)
            if not as_json:
                click.echo(_line(heard))
    if as_json:
        told = [event.model_dump() for event in events]
        facts = {"source": path, "duration_s": round(clock.heard_s, 3), "events": told}
        print_json(facts | {"models": list(ears.ears), "missing": ears.missing})
    elif not events:
        click.echo(f"nothing heard in {clock.heard_s:.1f} s")


async def _see(settings: Settings, path: str, *, as_json: bool) -> None:
    events: list[FaceSeen] = []
    images: list[str] = []
    cached = await asyncio.to_thread(load_profile, settings.paths.profile)
    async with contextlib.AsyncExitStack() as stack:
        pictures = _pictures(path)
        stack.push_async_callback(pictures.aclose)
        first = await anext(pictures)
        eye = await stack.enter_async_context(
            open_eye(parts.model_store(settings), cached.engine("litert") if cached else None)
        )
        async for picture in _again(first, pictures):
            seen = await eye.see(picture)
            images.append(picture.source)
            events += seen
            if not as_json:
                click.echo("\n".join(map(_line, seen)) or f"no face in {picture.source}")
    if as_json:
        print_json({"source": path, "images": images, "events": [event.model_dump() for event in events]})


class Clock:
    """Counts the sound that passes, and ends it after `limit_s`."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self.heard_s = 0.0

    async def ticking(self, first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The blocks, the one that is there already first."""
        async for block in _again(first, rest):
            yield block
            self.heard_s += len(block) / BLOCK_BYTES
            if self._limit_s is not None and self.heard_s >= self._limit_s:
                return


async def _again(first: R, rest: AsyncIterator[R]) -> AsyncIterator[R]:
    yield first
    async for each in rest:
        yield each


def _sound(path: str) -> AsyncGenerator[bytes, None]:
    if path.startswith(ALSA):
        return recorded_blocks(alsa_command(path.removeprefix(ALSA) or "default"))
    return wav_blocks(Path(path))


async def _pictures(path: str) -> AsyncGenerator[Picture, None]:
    if path.startswith(V4L2):
        yield await captured_picture(path, camera_command(path.removeprefix(V4L2) or "/dev/video0"))
        return
    async for picture in file_pictures(Path(path)):
        yield picture


def _line(event: SpeechSegment | WakeWord | FaceSeen) -> str:
    sure = f"{event.probability:.0%}"
    match event:
        case SpeechSegment():
            return f"{event.start_s:8.2f} s to {event.end_s:.2f} s  speech, {sure}"
        case WakeWord():
            return f"{event.at_s:8.2f} s  wake word '{event.phrase}', {sure}"
        case FaceSeen():
            box = f"{event.left:.3f},{event.top:.3f} to {event.right:.3f},{event.bottom:.3f}"
            return f"{event.source}: face at {box}, {sure}"
