"""Images as file contents: from a file, a folder, or a V4L2 camera."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.errors import RequestError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".webp", ".tif", ".tiff"}
MAX_IMAGE_BYTES = 64 * 2**20
CAPTURE_S = 20.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A name for people, and the content of an image file."""

    source: str
    content: bytes


async def file_pictures(path: Path) -> AsyncGenerator[Picture, None]:
    """The image, or every image in a folder by name. Raises RequestError."""
    for each in await asyncio.to_thread(_files, path):
        yield Picture(str(each), await asyncio.to_thread(_read, each))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not files:
        raise RequestError(f"there is no image in {path}; name a folder with JPEG or PNG files")
    return files


def camera_command(device: str) -> list[str]:
    """One JPEG to standard output; `v4l2-ctl` is in Debian's package v4l-utils."""
    stream = ["--stream-mmap", "--stream-skip=5", "--stream-count=1", "--stream-to=-"]  # the first ones are dark
    return ["v4l2-ctl", "--device", device, "--set-fmt-video=pixelformat=MJPG", *stream]


async def captured_picture(source: str, command: Sequence[str], timeout_s: float = CAPTURE_S) -> Picture:
    """What the program writes. Raises RequestError when it is not there, fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise RequestError(f"cannot start {command[0]} ({error.strerror}); install it (v4l-utils)") from None
    try:
        async with asyncio.timeout(timeout_s):
            content, complaint = await process.communicate()
    except TimeoutError:
        raise RequestError(f"{command[0]} gave no picture of {source} in {timeout_s:g} s; check the camera") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()  # reads what is left: asyncio waits for a full pipe without end
    if process.returncode or not content:
        told = complaint.decode(errors="replace").strip()[:500]
        raise RequestError(f"{command[0]} ended with status {process.returncode} ({told}); check the camera")
    return Picture(source, content)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}); name a readable file") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise RequestError(f"{path} is over {MAX_IMAGE_BYTES} bytes; scale it down")
    return content
