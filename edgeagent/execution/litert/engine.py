"""The LiteRT engine of a worker process: loads a .tflite file, with or without a delegate, and runs it."""

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.execution.litert import tiny
from edgeagent.execution.worker import Engine, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
"""The second is the first one's older name. Its last release, 2.14, does not work with numpy 2."""
XNNPACK = "xnnpack"
DELEGATE_NODE = "DELEGATE"


def create() -> Engine:
    return LitertEngine()


class LitertEngine:
    """Ops `load`, `run`, and `trial`, which is both; every request is answered before the next is read."""

    def __init__(self) -> None:
        self._model: Network | None = None

    def handle(self, request: Request) -> None:
        match request.op:
            case "load":
                request.reply((), **self._load(request))
            case "run":
                output = self._run(request)
                request.reply([output.tobytes()], shape=list(output.shape))
            case "trial":
                facts = self._load(request)
                output = self._run(request)
                request.reply([output.tobytes()], shape=list(output.shape), **facts)
            case _:
                raise EngineError(f"the litert engine has no operation '{request.op}'; use load or run")

    def cancel(self, request_id: int) -> None:
        """Nothing is ever queued."""

    def step(self) -> None:
        """Nothing is ever queued."""

    @property
    def is_busy(self) -> bool:
        return False

    def _load(self, request: Request) -> dict[str, object]:
        """`{path, delegate, threads}`: no path: a tiny model of its own; `delegate`: empty, `xnnpack`, or a library."""
        p = request.params
        self._model = model = Network.load(
            str(p.get("path") or ""), str(p.get("delegate") or ""), int(p.get("threads", 1))
        )
        return {"runtime": model.runtime, "nodes": model.nodes, "delegated": model.delegated}

    def _run(self, request: Request) -> "NDArray[np.float32]":
        """Bulk in: the first input's bytes, else it is made up. Bulk out: the first output, dequantised to float32."""
        if self._model is None:
            raise EngineError("no .tflite model is loaded in this worker; call load first")
        return self._model.run(request.bulk)


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded model. `nodes` are the operations it has, `delegated` the groups of them that a delegate took."""

    interpreter: Any
    runtime: str
    nodes: int
    delegated: int

    @classmethod
    def load(cls, path: str, delegate: str, threads: int) -> "Network":
        """Raises EngineError (no runtime, or the delegate refuses) or ModelFileError."""
        runtime = _runtime()
        source = {"model_path": path} if path else {"model_content": tiny.model_bytes()}
        options = source | _delegation(runtime, delegate)
        try:
            interpreter = runtime.Interpreter(num_threads=threads, **options)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError, ImportError) as error:  # SystemError: an old runtime's numpy
            raise _load_error(path, delegate, error) from None
        names = [operation["op_name"] for operation in interpreter._get_ops_details()]  # noqa: SLF001  (nothing public tells)
        delegated = names.count(DELEGATE_NODE)
        return cls(interpreter, runtime.__name__.partition(".")[0], len(names) - delegated, delegated)

    def run(self, content: bytes) -> "NDArray[np.float32]":
        """One run; raises EngineError when the runtime, or the chip behind a delegate, fails."""
        import numpy as np

        wanted, given = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]
        values = np.frombuffer(content, wanted["dtype"]) if content else _made_up(wanted)
        try:
            self.interpreter.set_tensor(wanted["index"], values.reshape(wanted["shape"]))
            self.interpreter.invoke()
            output = self.interpreter.get_tensor(given["index"])
        except (ValueError, RuntimeError, SystemError) as error:
            raise EngineError(f"the model cannot be run: {_first_line(error)}; try without the delegate") from None
        return _real_values(output, *given["quantization"])


def _runtime() -> ModuleType:
    """The interpreter's module of the first runtime that can be imported. Raises EngineError."""
    problems: list[str] = []
    for name in RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(_first_line(error))
    raise EngineError(f"LiteRT cannot be imported ({'; '.join(problems)}); pip install 'edgeagent[litert]'")


def _delegation(runtime: ModuleType, delegate: str) -> dict[str, object]:
    """Interpreter arguments. The default resolver brings XNNPACK, which stays out beside another delegate."""
    if delegate == XNNPACK:
        return {}
    plain = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    if not delegate:
        return {"experimental_op_resolver_type": plain}
    try:
        loaded = runtime.load_delegate(delegate)
    except (ValueError, OSError, RuntimeError, AttributeError) as error:  # AttributeError: not a delegate's library
        raise EngineError(f"delegate {delegate} cannot be loaded: {_first_line(error)}; install its driver") from None
    return {"experimental_op_resolver_type": plain, "experimental_delegates": [loaded]}


def _load_error(path: str, delegate: str, error: Exception) -> EngineError | ModelFileError:
    if isinstance(error, SystemError | ImportError):
        cause = error.__context__ if isinstance(error.__context__, Exception) else error
        return EngineError(f"this LiteRT does not work with this numpy: {_first_line(cause)}; update ai-edge-litert")
    if path and not delegate:
        return ModelFileError(f"{path} cannot be loaded: {_first_line(error)}; fetch the model again")
    return EngineError(f"the model cannot be prepared: {_first_line(error)}; try without the delegate")


def _made_up(wanted: dict[str, Any]) -> "NDArray[np.generic]":
    """The same values in every process, over most of the input's range."""
    import numpy as np

    count = math.prod(int(size) for size in wanted["shape"])
    ramp = np.arange(count) * 37 % 101
    return (ramp - 50 if np.issubdtype(wanted["dtype"], np.integer) else np.sin(ramp)).astype(wanted["dtype"])


def _real_values(output: "NDArray[np.generic]", scale: float, zero_point: int) -> "NDArray[np.float32]":
    import numpy as np

    values = output.astype(np.float32)
    return np.ascontiguousarray((values - zero_point) * scale if scale else values, dtype="<f4")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
