"""Faults on demand, for tests: a worker dies or hangs the way real ones do."""

import itertools
import os
import threading
from collections.abc import Mapping

VARIABLE = "EDGEAGENT_FAULTS"


def are_allowed(environment: Mapping[str, str]) -> bool:
    return environment.get(VARIABLE) == "1"


def commit(params: Mapping[str, object]) -> None:
    """`{"signal": n}`, `{"hang": "spin"}` (inside a C call, holding the interpreter) or `{"hang": "deadlock"}`."""
    if "signal" in params:
        os.kill(os.getpid(), int(str(params["signal"])))
    if params.get("hang") == "spin":
        sum(itertools.repeat(0))
    if params.get("hang") == "deadlock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
