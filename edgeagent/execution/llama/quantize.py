"""llama.cpp's quantiser: one GGUF file into another of a smaller type. Runs inside a worker."""

import ctypes

from edgeagent.core.errors import EngineError

KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


def quantize(source: str, target: str, kind: str, threads: int) -> None:
    """Write `source` as type `kind` to `target`; `source` may be quantised already. Raises EngineError."""
    import llama_cpp

    if kind not in KINDS:
        raise EngineError(f"'{kind}' is no quantisation this version makes; use one of {', '.join(KINDS)}")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = threads
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise EngineError(f"llama.cpp could not quantise {source} to {kind}; see the log for its reason")
