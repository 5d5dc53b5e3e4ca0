"""What the readers find on a machine, live or captured, and the fingerprint that tells one machine from another."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.hardware import Profile
from edgeagent.resource.boards import load_boards, match_machine
from edgeagent.resource.probes.accelerators import read_accelerators
from edgeagent.resource.probes.board import read_board
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.storage import read_storage
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal

MEMORY_GRAIN_BYTES = 64 * 2**20
"""Total memory enters the fingerprint this coarsely: kernels differ by a few KiB in what they keep for themselves."""


@dataclass(frozen=True, slots=True)
class Places:
    """`state` is where models and memories live, `cache` the profile's file, `boards` the folder of board profiles."""

    state: Path
    cache: Path
    boards: Path


def fingerprint(machine: Profile, engine_builds: dict[str, str]) -> str:
    """A digest of what measurements depend on: CPU, memory, board, engines; of nothing that changes by itself."""
    facts = {
        "cpu": [
            machine.cpu.model,
            machine.cpu.arch,
            machine.cpu.cores,
            sorted(machine.cpu.features),
            machine.cpu.quota_cores,
        ],
        "memory": round(machine.memory.total_bytes / MEMORY_GRAIN_BYTES),
        "board": machine.board,
        "engines": engine_builds,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_machine(root: Sysroot, places: Places, engine_builds: dict[str, str] | None = None) -> Profile:
    """What the readers find under a sysroot. Starts, measures and writes nothing. Raises ConfigError (board files)."""
    cpu, board = read_cpu(root), read_board(root)
    machine = Profile(
        fingerprint="",
        board=board,
        cpu=cpu,
        memory=read_memory(root),
        accelerators=read_accelerators(root),
        thermal=read_thermal(root),
        power=read_power(root),
        storage=read_storage(root, places.state),
        gaps=root.gaps,
    )
    matched = match_machine(load_boards(places.boards), machine)
    return machine.model_copy(
        update={
            "fingerprint": fingerprint(machine, engine_builds or {}),
            "board_profile": matched.id if matched else None,
        }
    )
