"""llama.cpp's quantiser: one GGUF file into another of a smaller type. Runs inside a worker."""

import ctypes
import re
from collections.abc import Callable

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama import imatrix
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.logs import listening
from edgeagent.execution.worker import Request

PREFIX = "LLAMA_FTYPE_MOSTLY_"
READ_ONLY = frozenset({"NVFP4"})
"""llama.cpp runs these but its quantiser makes no such file (llama-quant.cpp, llama_ftype_get_default_type)."""
PURE_FTYPES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""File types whose base is a tensor type of another name."""
_AT_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")

OnTensor = Callable[[int, int], None]


def kinds() -> dict[str, int]:
    """File types that can be made here, by name, with llama.cpp's number."""
    bindings = llama()
    names = (name.removeprefix(PREFIX) for name in dir(bindings) if name.startswith(PREFIX))
    return {name: int(getattr(bindings, PREFIX + name)) for name in names if name not in READ_ONLY}


def quantize(
    source: str,
    target: str,
    kind: str,
    threads: int,
    matrix: imatrix.Matrix | None = None,
    on_tensor: OnTensor | None = None,
) -> None:
    """Write `source` as type `kind` to `target`; `source` may be quantised already. Raises EngineError."""
    if kind not in kinds():
        raise EngineError(f"'{kind}' is no quantisation llama.cpp makes; use one of {', '.join(kinds())}")
    bindings, said = llama(), _Listener(on_tensor)
    params = bindings.llama_model_quantize_default_params()
    params.ftype = kinds()[kind]
    params.nthread = threads
    params.allow_requantize = True
    entries = _entries(matrix or {})  # must live until the call returns
    if matrix:
        params.imatrix = entries
    with listening(said.hear):
        status = bindings.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if status != 0:
        raise _failure(source, kind, said.text)


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


def _entries(matrix: imatrix.Matrix) -> "ctypes.Array[ctypes.Structure]":
    """C's view of a matrix, ended by an entry without a name. The caller keeps both until C is done."""
    bindings = llama()
    entries = (bindings.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, values) in zip(entries, matrix.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries  # type: ignore[no-any-return]


class _Listener:
    """Keeps the end of what the quantiser says, and counts its tensors."""

    def __init__(self, on_tensor: OnTensor | None) -> None:
        self.text = ""
        self._on_tensor = on_tensor

    def hear(self, piece: str) -> None:
        self.text = (self.text + piece)[-4000:]
        if self._on_tensor and (found := _AT_TENSOR.search(piece)):
            self._on_tensor(int(found[1]), int(found[2]))


def _failure(source: str, kind: str, said: str) -> EngineError:
    if "requires an imatrix" in said or "Missing importance matrix" in said:
        return EngineError(f"{kind} needs an importance matrix here; give --calibration TEXTFILE or --imatrix FILE")
    reason = said.rpartition("failed to quantize:")[2].strip() or "no reason given"
    return EngineError(f"llama.cpp could not quantise {source} to {kind} ({reason}); check the source and the disk")


def make(request: Request) -> Steps:
    """Op `quantize {source, target, kind, threads}`, optionally with an importance matrix.

    `imatrix` names a file of one; or with `chunks` and `context_tokens` it is computed from the calibration text that
    comes as bulk. Events: `stage`, `done`, `total`. Replies the number of weights the matrix covers.
    """
    p = request.params
    matrix: imatrix.Matrix | None = None
    if p.get("imatrix"):
        matrix = imatrix.read(str(p["imatrix"]))
    elif request.bulk:
        collector = imatrix.Collector()
        yield from imatrix.collect(request, collector)
        matrix = collector.matrix()

    def report(done: int, total: int) -> None:
        request.event(stage="quantising", done=done, total=total)

    quantize(str(p["source"]), str(p["target"]), str(p["kind"]), int(p["threads"]), matrix, report)
    request.reply(weights=len(matrix or {}))


def list_kinds(request: Request) -> Steps:
    """Op `kinds`: the file types that can be made."""
    request.reply(kinds=sorted(kinds()))
    yield from ()
