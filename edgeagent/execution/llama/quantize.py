"""llama.cpp's quantiser: one GGUF file into another of a smaller type. Runs inside a worker."""

import ctypes

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.library import llama

KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")

PURE_FTYPES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""File types whose base is a tensor type of another name."""


def quantize(source: str, target: str, kind: str, threads: int) -> None:
    """Write `source` as type `kind` to `target`; `source` may be quantised already. Raises EngineError."""
    if kind not in KINDS:
        raise EngineError(f"'{kind}' is no quantisation this version makes; use one of {', '.join(KINDS)}")
    bindings = llama()
    params = bindings.llama_model_quantize_default_params()
    params.ftype = getattr(bindings, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = threads
    params.allow_requantize = True
    if bindings.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise EngineError(f"llama.cpp could not quantise {source} to {kind}; check the source and the disk")


def quantize_purely(source: str, target: str, tensor_type: str) -> None:
    """Every matrix of `source` as `tensor_type` (ggml's name), without the mixtures that file types prescribe."""
    bindings = llama()
    params = bindings.llama_model_quantize_default_params()
    ftype = PURE_FTYPES.get(tensor_type, tensor_type)
    params.ftype = getattr(bindings, f"LLAMA_FTYPE_MOSTLY_{ftype}", -1)
    params.pure = True
    params.nthread = 0
    if params.ftype < 0:
        raise EngineError(f"no file type is made of '{tensor_type}'; name another tensor type")
    if bindings.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise EngineError(f"llama.cpp could not write {tensor_type} to {target}; check the disk")
