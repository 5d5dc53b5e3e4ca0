"""The LiteRT engine of a worker process: any .tflite file, with or without a delegate; a wake word; faces."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError
from edgeagent.execution.litert.faces import FaceDetector
from edgeagent.execution.litert.network import Network
from edgeagent.execution.litert.wake import WakeListener
from edgeagent.execution.worker import Engine, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def create() -> Engine:
    return LitertEngine()


class LitertEngine:
    """Ops `load`, `run`, and `trial`, which is both; `wake_load` and `wake`; `faces_load` and `faces`.

    Every request is answered before the next is read.
    """

    def __init__(self) -> None:
        self._model: Network | None = None
        self._wake: WakeListener | None = None
        self._faces: FaceDetector | None = None
        self._operations: dict[str, Callable[[Request], None]] = {
            "load": lambda request: request.reply((), **self._load(request)),
            "run": self._run_and_reply,
            "trial": lambda request: self._run_and_reply(request, **self._load(request)),
            "wake_load": self._load_wake,
            "wake": self._hear,
            "faces_load": self._load_faces,
            "faces": self._see,
        }

    def handle(self, request: Request) -> None:
        if (operation := self._operations.get(request.op)) is None:
            raise EngineError(f"the litert engine has no operation '{request.op}'; use load or run")
        operation(request)

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

    def _run_and_reply(self, request: Request, **facts: object) -> None:
        output = self._run(request)
        request.reply([output.tobytes()], shape=list(output.shape), **facts)

    def _run(self, request: Request) -> "NDArray[np.float32]":
        """Bulk in: the first input's bytes, else it is made up. Bulk out: the first output, dequantised to float32."""
        if self._model is None:
            raise EngineError("no .tflite model is loaded in this worker; call load first")
        return self._model.run(request.bulk)

    def _load_wake(self, request: Request) -> None:
        """`{model, manifest}`: replies with the phrase, and how its probabilities are judged."""
        self._wake = WakeListener.load(Path(request.params["model"]), Path(request.params["manifest"]))
        request.reply((), **self._wake.facts())

    def _hear(self, request: Request) -> None:
        """Bulk in: 16-bit mono samples at 16 kHz, of any length. Bulk out: one float32 probability a stride."""
        if self._wake is None:
            raise EngineError("no wake word is loaded in this worker; call wake_load first")
        request.reply([self._wake.hear(request.bulk).tobytes()])

    def _load_faces(self, request: Request) -> None:
        """`{model, delegate}`."""
        params = request.params
        self._faces = FaceDetector.load(str(params["model"]), str(params.get("delegate") or ""))
        request.reply()

    def _see(self, request: Request) -> None:
        """`{name}`; bulk in: an image file. Replies with `faces` in fractions of its sides, and its size in pixels."""
        if self._faces is None:
            raise EngineError("no face model is loaded in this worker; call faces_load first")
        request.reply((), **self._faces.see(request.bulk, str(request.params.get("name") or "this")))
