"""Loads llama.cpp's C API once and keeps it quiet. Imported in workers only."""

import contextlib
import ctypes
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from edgeagent.execution.releases import Release
from edgeagent.execution.releases import release as known_release

KV_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}
"""ggml type numbers of the cache types we use (ggml.h, `enum ggml_type`)."""

GPU_DEVICE_TYPES = {1, 2}
"""Discrete and integrated (ggml-backend.h, `enum ggml_backend_dev_type`)."""

_kept: list[object] = []  # ctypes callbacks live only as long as Python refers to them

_listening: list[list[str]] = []


@functools.cache
def llama() -> ModuleType:
    """The bindings, initialised; what they log nobody hears, except in `listening`.

    Raises EngineError for a release that is not known: nothing of it is called.
    """
    bindings = importlib.import_module("llama_cpp")
    known_release(str(bindings.__version__))

    def tell(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        del level, user_data
        for lines in _listening:
            lines.append(text.decode(errors="replace"))

    callback = bindings.llama_log_callback(tell)
    _kept.append(callback)
    bindings.llama_log_set(callback, ctypes.c_void_p(0))
    bindings.llama_backend_init()
    return bindings


def engine_version() -> str:
    """Version of the bindings, which pin one llama.cpp."""
    return str(llama().__version__)


def release() -> Release:
    """In what the release that is loaded differs from others."""
    return known_release(engine_version())


def system_info() -> str:
    """What the build reports of itself: the instruction sets it was compiled for and runs with."""
    return bytes(llama().llama_print_system_info()).decode()


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What llama.cpp logs meanwhile, piece by piece: some facts it tells in no other way."""
    lines: list[str] = []
    _listening.append(lines)
    try:
        yield lines
    finally:
        _listening.remove(lines)


def supports(feature: str) -> bool:
    """Whether this build has `gpu_offload`, `mlock` or `mmap` at all."""
    return bool(getattr(llama(), f"llama_supports_{feature}")())


@functools.cache
def ggml() -> ctypes.CDLL:
    """ggml's functions, of the very libraries that libllama is linked with.

    They are found through it. In a wheel, the `libggml-base.so` beside it is a copy, so another library.
    """
    return ctypes.CDLL(str(Path(str(llama().__file__)).parent / "lib" / "libllama.so"))


def backend_devices() -> list[tuple[str, str]]:
    """Name and description of every device that computes beside the CPU: `("CUDA0", "NVIDIA …")`."""
    lib = ggml()
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    for read in (lib.ggml_backend_dev_name, lib.ggml_backend_dev_description):
        read.argtypes, read.restype = [ctypes.c_void_p], ctypes.c_char_p
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    devices = [lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count())]
    return [
        (lib.ggml_backend_dev_name(d).decode(), lib.ggml_backend_dev_description(d).decode(errors="replace"))
        for d in devices
        if lib.ggml_backend_dev_type(d) in GPU_DEVICE_TYPES
    ]


class TensorOverride(ctypes.Structure):
    """llama.h, `struct llama_model_tensor_buft_override`: tensors whose name matches go to this buffer type."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


EXPERTS = rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Names of the tensors that hold experts (llama.cpp, common/common.h)."""


def expert_overrides() -> "ctypes.Array[TensorOverride]":
    """Overrides that keep experts in the machine's own memory; the last entry is the end."""
    lib = ggml()
    lib.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    return (TensorOverride * 2)(TensorOverride(EXPERTS, lib.ggml_backend_cpu_buffer_type()), TensorOverride(None, None))
