"""A loaded .tflite model: which runtime runs it, with which delegate, and one run of it."""

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.execution.litert import tiny

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
"""The second is the first one's older name. Its last release, 2.14, does not work with numpy 2."""
XNNPACK = "xnnpack"
DELEGATE_NODE = "DELEGATE"


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
        """The first output of one run over an input's bytes (none: made-up ones). Raises as `outputs`."""
        import numpy as np

        wanted = self.interpreter.get_input_details()[0]
        return self.outputs(np.frombuffer(content, wanted["dtype"]) if content else _made_up(wanted))[0]

    def outputs(self, values: "NDArray[np.generic]") -> "list[NDArray[np.float32]]":
        """All outputs of one run. Raises EngineError when the runtime, or the chip behind a delegate, fails."""
        wanted, given = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()
        try:
            self.interpreter.set_tensor(wanted["index"], values.reshape(wanted["shape"]))
            self.interpreter.invoke()
            return [_real_values(self.interpreter.get_tensor(each["index"]), *each["quantization"]) for each in given]
        except (ValueError, RuntimeError, SystemError) as error:
            raise EngineError(f"the model cannot be run: {_first_line(error)}; try without the delegate") from None

    def quantized(self, values: "NDArray[np.float64]") -> "NDArray[np.generic]":
        """Real values as the first input wants them."""
        wanted = self.interpreter.get_input_details()[0]
        scale, zero_point = wanted["quantization"]
        quantized: NDArray[np.generic] = (values / scale + zero_point).astype(wanted["dtype"])
        return quantized

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.interpreter.get_input_details()[0]["shape"])


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
    if path and delegate in ("", XNNPACK):
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
