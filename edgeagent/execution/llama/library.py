"""Loads llama.cpp's C API once and keeps it quiet. Imported in workers only."""

import ctypes
import functools
import importlib
from types import ModuleType

KV_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}
"""ggml type numbers of the cache types we use (ggml.h, `enum ggml_type`)."""

_kept: list[object] = []  # ctypes callbacks live only as long as Python refers to them


@functools.cache
def llama() -> ModuleType:
    """The bindings, initialised, with logging off."""
    bindings = importlib.import_module("llama_cpp")

    def discard(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        del level, text, user_data

    callback = bindings.llama_log_callback(discard)
    _kept.append(callback)
    bindings.llama_log_set(callback, ctypes.c_void_p(0))
    bindings.llama_backend_init()
    return bindings


def engine_version() -> str:
    """Version of the bindings, which pin one llama.cpp."""
    return str(llama().__version__)


def system_info() -> str:
    """What the build reports of itself: the instruction sets it was compiled for and runs with."""
    return bytes(llama().llama_print_system_info()).decode()
