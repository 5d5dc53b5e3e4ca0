"""Runs a model once with one execution provider, and tells on which provider each node really ran."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError
from edgeagent.execution.onnx import tiny
from edgeagent.execution.worker import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession, NodeArg

FREE_DIMENSION = 16
"""Size of a dimension that the model leaves open, except the first, the batch."""


def providers(request: Request) -> None:
    """Op `providers`: what this build of ONNX Runtime brings, in its order of preference."""
    import onnxruntime

    request.reply(version=str(onnxruntime.__version__), providers=list(onnxruntime.get_available_providers()))


def trial(request: Request) -> None:
    """Op `trial {provider, model}` (no path: a tiny model): one run over made-up inputs.

    Replies with the nodes each provider ran, and the first output as float32 bulk. A provider that cannot start is
    replaced by the CPU without an error, and one that starts may leave every node to the CPU: the run's own profile
    tells.
    """
    provider, path = str(request.params["provider"]), str(request.params.get("model") or "")
    with tempfile.TemporaryDirectory() as folder:
        session = _session(path, provider, Path(folder))
        output = _run(session)
        nodes = _nodes(Path(session.end_profiling()))
    request.reply([output.tobytes()], session_providers=list(session.get_providers()), nodes=nodes)


def _session(path: str, provider: str, folder: Path) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "run")
    try:
        return onnxruntime.InferenceSession(path or tiny.model_bytes(), options, providers=[provider])
    except Exception as error:  # noqa: BLE001  (the library's errors have no common base but Exception)
        raise EngineError(f"{provider} cannot be started: {_first_line(error)}; use another provider") from None


def _run(session: "InferenceSession") -> "NDArray[np.float32]":
    import numpy as np

    inputs = {wanted.name: _made_up(wanted) for wanted in session.get_inputs()}
    try:
        output = session.run(None, inputs)[0]
    except Exception as error:  # noqa: BLE001  (as above)
        raise EngineError(f"the model cannot be run: {_first_line(error)}; use another provider") from None
    return np.ascontiguousarray(output, dtype="<f4")


def _made_up(wanted: "NodeArg") -> "NDArray[np.generic]":
    """The same values in every process: token ids, a mask of ones, or waves."""
    import numpy as np

    shape = [
        size if isinstance(size, int) else (1 if i == 0 else FREE_DIMENSION) for i, size in enumerate(wanted.shape)
    ]
    ramp = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    values = np.sin(ramp * 0.7)
    if wanted.type == "tensor(int64)":
        values = ramp * 37 % 997 + 1
        if "mask" in wanted.name or "type" in wanted.name:
            values = np.full(shape, int("mask" in wanted.name))
    return np.asarray(values, dtype=np.int64 if wanted.type == "tensor(int64)" else np.float32)


def _nodes(profile: Path) -> dict[str, int]:
    """Provider to the number of nodes that ran on it."""
    events = json.loads(profile.read_text())
    ran = {(e["args"]["provider"], e["name"]) for e in events if e.get("args", {}).get("provider")}
    return dict(Counter(provider for provider, _ in ran))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
