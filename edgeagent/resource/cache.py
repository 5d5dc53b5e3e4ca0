"""Keeps the profile as one JSON file: replaced whole, measured by one process at a time."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from edgeagent.core.errors import ConfigError
from edgeagent.core.hardware import Profile
from edgeagent.resource.file_lock import lock_alone

LOCK_POLL_S = 0.1


def load_profile(cache: Path) -> Profile | None:
    """The kept profile; None when there is none, or none that this version of the program can read."""
    try:
        return Profile.model_validate_json(cache.read_bytes())
    except (OSError, ValidationError):
        return None


def save_profile(cache: Path, profile: Profile) -> None:
    """Replace the kept profile in one step: a reader, or a power cut, sees the old or the new. Raises ConfigError."""
    draft = cache.with_name(f"{cache.name}.{os.getpid()}.new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(profile.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(cache)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _unwritable(cache, error) from None


@asynccontextmanager
async def measuring(cache: Path) -> AsyncIterator[None]:
    """Hold the right to measure: two processes that measure at once would halve each other. Raises ConfigError."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(cache.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(cache, error) from None
    try:
        while not lock_alone(descriptor):  # noqa: ASYNC110  (another process holds it: there is no event)
            await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def _unwritable(cache: Path, error: OSError) -> ConfigError:
    return ConfigError(f"the profile cannot be kept as {cache}: {error.strerror}; make its folder writable")
