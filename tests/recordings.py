"""Real test material: speech that espeak-ng says, and a photograph of a face from a hash-pinned wheel."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import wave
import zipfile
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeagent.execution.audio import SAMPLE_RATE, read_wav

PHOTO_WHEEL = "scikit-image==0.25.2 --hash=sha256:24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641"
"""For Python 3.11 on x86-64, which need not be this machine's: only the photograph in it is used."""
PHOTO = "skimage/data/astronaut.png"
"""Eileen Collins, by NASA, public domain (`skimage/data/README.txt` and skimage.data.astronaut's documentation)."""
PHOTO_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"


def say(text: str, words_a_minute: int = 160) -> bytes:
    """Samples of a synthetic voice. Skips the test where there is none."""
    if (program := shutil.which("espeak-ng")) is None:
        pytest.skip("espeak-ng is not installed here (tools/setup_tests.sh)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "said.wav")
        subprocess.run([program, "-v", "en-us", "-s", str(words_a_minute), "-w", str(path), text], check=True)
        return b"".join(read_wav(path))


def silence(seconds: float) -> bytes:
    return bytes(2 * int(SAMPLE_RATE * seconds))


def noise(seconds: float, loudness: float, seed: int = 4) -> bytes:
    rng = random.Random(seed)
    return array("h", (round(rng.gauss(0, loudness)) for _ in range(int(SAMPLE_RATE * seconds)))).tobytes()


def write_wav(path: Path, parts: Sequence[bytes]) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(b"".join(parts))
    return path


def photograph(folder: Path) -> Path:
    """The picture, fetched once into `folder`. Skips the test where the package index cannot be reached."""
    path = folder / "astronaut.png"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            content = _from_wheel(Path(scratch))
        draft = path.with_suffix(f".{os.getpid()}")  # another process may be fetching it, too
        draft.write_bytes(content)
        draft.replace(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == PHOTO_SHA256
    return path


def _from_wheel(scratch: Path) -> bytes:
    (scratch / "wanted.txt").write_text(PHOTO_WHEEL)
    place = ["--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--only-binary=:all:", "--no-deps"]
    command = [sys.executable, "-m", "pip", "download", "-q", *place, "--require-hashes", "-r", "wanted.txt"]
    if subprocess.run(command, cwd=scratch, capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("the wheel with the photograph cannot be fetched (pip download scikit-image)")
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(PHOTO)
