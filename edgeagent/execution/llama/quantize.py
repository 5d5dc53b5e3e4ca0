"""llama.cpp's quantiser: one GGUF file into another of a smaller type. Runs inside a worker."""

import ctypes

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.library import llama

KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


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
