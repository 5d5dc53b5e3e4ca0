"""Switches a Jetson's power mode with NVIDIA's own tool, `nvpmodel`; only where the settings ask for it."""

import asyncio
import re
import shutil

from edgeagent.resource.probes.sysroot import Sysroot

TOOL = "nvpmodel"
CONFIG = "etc/nvpmodel.conf"
MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,3})\s+NAME=([A-Za-z0-9_.+-]{1,40})\s*>")
"""How `nvpmodel.conf` opens a mode (Jetson Linux developer guide, power management)."""
TIMEOUT_S = 30.0


def mode_id(root: Sysroot, name: str) -> str | None:
    """The number that the board's file gives a mode."""
    modes = {found: number for number, found in MODE.findall(root.text(CONFIG) or "")}
    return modes.get(name)


async def switch_mode(root: Sysroot, name: str) -> str | None:
    """Runs `nvpmodel -m ID`. Returns None when it worked, else why it did not. Never reboots: nobody answers it."""
    number, tool = mode_id(root, name), shutil.which(TOOL)
    if tool is None:
        return f"{TOOL} is not installed"
    if number is None:
        return f"/{CONFIG} names no mode {name}"
    process = await asyncio.create_subprocess_exec(
        tool,
        "-m",
        number,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"{TOOL} did not end within {TIMEOUT_S:g} s"
    if process.returncode == 0:
        return None
    told = said.decode(errors="replace").strip().splitlines()
    return f"{TOOL} ended with status {process.returncode}" + (f": {told[-1]}" if told else "")
