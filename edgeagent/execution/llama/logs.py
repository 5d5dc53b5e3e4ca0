"""What llama.cpp says while it works: its quantiser reports progress and reasons nowhere else."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeagent.execution.llama.library import llama

_kept: list[object] = []  # C holds the last callback for good


@contextmanager
def listening(hear: Callable[[str], None]) -> Iterator[None]:
    """Everything llama.cpp logs while inside goes to `hear`, in the pieces in which it comes."""
    bindings = llama()

    def heard(_level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
        hear(text.decode(errors="replace"))

    def discard(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None: ...

    callbacks = [bindings.llama_log_callback(function) for function in (heard, discard)]
    _kept[:] = callbacks
    bindings.llama_log_set(callbacks[0], ctypes.c_void_p(0))
    try:
        yield
    finally:
        bindings.llama_log_set(callbacks[1], ctypes.c_void_p(0))
