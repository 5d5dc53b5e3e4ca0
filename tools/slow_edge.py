"""Runs a command with its engine workers held to a share of the CPU, to stand for a slower board. No root needed.

The workers are stopped and continued in turns; the process that talks to the network is left alone.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time

import psutil

PERIOD_S = 0.05
WORKER = ["edgeagent.execution.worker", "llama"]


def workers(parent: psutil.Process) -> list[psutil.Process]:
    """The engine workers below a process."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if all(word in child.cmdline() for word in WORKER):
                    found.append(child)
    return found


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def hold(command: list[str], share: float) -> int:
    """Run `command`; its exit status."""
    child = subprocess.Popen(command)
    parent = psutil.Process(child.pid)
    held: list[psutil.Process] = []
    try:
        while child.poll() is None:
            held = workers(parent)
            send(held, signal.SIGSTOP)
            time.sleep(PERIOD_S * (1 - share))
            send(held, signal.SIGCONT)
            time.sleep(PERIOD_S * share)
    finally:
        send(held, signal.SIGCONT)
        if child.poll() is None:
            child.terminate()
    return child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, required=True, help="part of the time that the workers may run, 0 to 1")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1:
        parser.error("--share is more than 0 and at most 1")
    sys.exit(hold(arguments.command, arguments.share))


if __name__ == "__main__":
    main()
