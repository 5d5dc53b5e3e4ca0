"""Kills processes that write to a memory file, at random moments, and counts what that cost.

    python -m tests.agent.memory.killing FOLDER --kills 1000 --seed 1

A process of its own, because it forks: two writers at a time, each with a user of its own, each killed with SIGKILL.
A writer says what it is about to do and what was acknowledged over a pipe, which outlives it.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from edgeagent.agent.memory.store import MemoryStore
from edgeagent.core.errors import MemoryStoreError
from tests.agent.memory.workload import DIMENSIONS, State, Workload, left_in

FILE = "memory.sqlite"
USERS = ("ann", "bob")
MAX_LIFE_S = 0.08
"""Long enough for some tens of changes behind the opening, short enough that many kills hit the opening."""
ABOUT_TO, ACKNOWLEDGED = b"?", b"!"


class Writer:
    """A forked process that changes one user's memories until it is killed."""

    def __init__(self, path: Path, workload: Workload, *, lies: bool) -> None:
        self._workload = workload
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _write_on(path, workload, writing, lies=lies)
        os.close(writing)
        self._reading = reading

    def killed(self) -> tuple[int, tuple[State, State]]:
        """How many changes were acknowledged, and what may be left: without or with the one under way."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"a writer ended by itself, with status {status}")
        with os.fdopen(self._reading, "rb") as pipe:
            said = pipe.read()
        num_done, is_under_way = said.count(ACKNOWLEDGED), said.endswith(ABOUT_TO)
        before = self._workload.state
        for _ in range(num_done):
            _, before = self._workload.next()
            self._workload.state = before
        after = self._workload.next()[1] if is_under_way else before
        return num_done, (before, after)


def _write_on(path: Path, workload: Workload, pipe: int, *, lies: bool) -> None:
    """Never returns: what is left of the parent in this process must not run on."""
    try:
        store = MemoryStore.open(path, DIMENSIONS)
        while True:
            change, state = workload.next()
            os.write(pipe, ABOUT_TO + ACKNOWLEDGED if lies else ABOUT_TO)
            change(store)
            os.write(pipe, b"" if lies else ACKNOWLEDGED)
            workload.state = state
    except BaseException:  # noqa: BLE001  (it can go nowhere else: this process is a copy)
        traceback.print_exc()
    finally:
        os._exit(1)


def run(folder: Path, num_kills: int, seed: int, *, life_s: float = MAX_LIFE_S, lies: bool = False) -> dict[str, int]:
    """Kills, acknowledged changes, and how many kills lost one of them or left a damaged file.

    Writers that lie acknowledge what they have yet to do: they show that losses are counted.
    """
    draw = random.Random(seed)
    path = folder / FILE
    counts = dict.fromkeys(("kills", "acknowledged", "lost", "corrupt"), 0)
    states: tuple[State, ...] = tuple(frozenset() for _ in USERS)
    while counts["kills"] < num_kills:
        workloads = [Workload(u, random.Random(draw.random()), s) for u, s in zip(USERS, states, strict=True)]
        writers = [Writer(path, workload, lies=lies) for workload in workloads]
        possible = []
        for writer in writers:
            time.sleep(draw.random() * life_s)
            num_done, ends = writer.killed()
            possible.append(ends)
            counts["kills"] += 1
            counts["acknowledged"] += num_done
        try:
            states = left_in(path, *USERS)
        except (MemoryStoreError, AssertionError):
            counts["corrupt"] += 1
            break
        counts["lost"] += sum(state not in ends for state, ends in zip(states, possible, strict=True))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill writers of a memory file, and count the losses.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--life-s", type=float, default=MAX_LIFE_S, help="Seconds after which a writer is dead for sure."
    )
    parser.add_argument("--lies", action="store_true", help="Acknowledge before the change: losses must show.")
    options = parser.parse_args()
    sys.stdout.write(
        json.dumps(run(options.folder, options.kills, options.seed, life_s=options.life_s, lies=options.lies)) + "\n"
    )


if __name__ == "__main__":
    main()
