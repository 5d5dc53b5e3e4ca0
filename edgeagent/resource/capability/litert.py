"""What LiteRT can do here: a tiny integer model on the CPU, with XNNPACK, and with each delegate that is installed."""

from pathlib import Path

from edgeagent.resource.capability.judging import Judged, deviation, floats, relative_error
from edgeagent.resource.capability.trial import TIMEOUT_S, Limits, Outcome, SpawnLimited, run_trial

ENGINE = "litert"
CPU, XNNPACK = "cpu", "xnnpack"
LIBRARIES = {
    "edgetpu": "libedgetpu.so.1",
    "vx": "libvx_delegate.so",
    "ethosu": "libethosu_delegate.so",
    "qnn": "libQnnTFLiteDelegate.so",
    "teflon": "libteflon.so",
}
"""External delegates: Coral, the i.MX8M Plus's NPU, Arm Ethos-U, Qualcomm, and Mesa's for NPUs with free drivers."""
STANDARD_FOLDERS = (
    "usr/local/lib",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "lib",
)
ADDRESS_BYTES = 2 * 2**30
"""Measured: 163 MB of address space. Delegates that are not the CPU's have no limit: drivers map device memory."""


class LitertTrials:
    """Tries delegates by name."""

    engine = ENGINE
    names = (CPU, XNNPACK, *LIBRARIES)

    def __init__(self, spawn: SpawnLimited, timeout_s: float = TIMEOUT_S, root: Path = Path("/")) -> None:
        self._timeout_s = timeout_s
        self._spawn = spawn
        self._root = root
        self._cpu: Outcome | None = None

    def library(self, name: str) -> Path | None:
        """The delegate's file in one of the standard folders."""
        places = (self._root / folder / LIBRARIES[name] for folder in STANDARD_FOLDERS)
        return next((place for place in places if place.is_file()), None)

    async def judge(self, name: str) -> Judged:
        """Never raises for what the worker does."""
        delegate = name
        if name in LIBRARIES:
            if (found := self.library(name)) is None:
                return Judged("absent", f"{LIBRARIES[name]} is not in the standard folders")
            delegate = str(found)
        if self._cpu is None:
            self._cpu = await self._run("")
        if self._cpu.reply is None:
            return Judged(self._cpu.verdict, f"the CPU alone: {self._cpu.reason}")
        return self._compared(name, self._cpu if name == CPU else await self._run(delegate))

    async def _run(self, delegate: str) -> Outcome:
        limits = Limits(self._timeout_s, 0 if delegate.startswith("/") else ADDRESS_BYTES)
        return await run_trial(ENGINE, "trial", limits=limits, spawn=self._spawn, delegate=delegate)

    def _compared(self, name: str, found: Outcome) -> Judged:
        assert self._cpu is not None
        if found.reply is None:
            return Judged(found.verdict, found.reason)
        if name == CPU:
            return Judged("ok", f"a tiny int8 model runs ({found.reply['runtime']})")
        if not found.reply["delegated"]:
            nodes = found.reply["nodes"]
            return Judged("failed", f"it took none of the tiny model's operations ({nodes}): the CPU ran them")
        reference, output = floats(self._cpu.bulk), floats(found.bulk)
        if wrong := deviation(reference, output):
            return Judged("failed", wrong)
        return Judged("ok", f"a tiny int8 model runs, {relative_error(reference, output):.2%} off the CPU's output")
