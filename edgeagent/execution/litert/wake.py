"""Hears one wake word in a stream: the features and strides of microWakeWord (github.com/OHF-Voice/micro-wake-word).

A feature is 40 numbers of a window of 30 ms, every 10 ms, from TensorFlow's micro frontend (the `pymicro-features`
package); the model takes the features of one stride at a time, keeps what it needs of earlier ones itself, and gives
the probability that the word ends here. Features and quantisation are as in `pymicro-wakeword` 1.0.0.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.execution.litert.network import XNNPACK, Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP_S, WINDOW_S = 0.010, 0.030
CHUNK_BYTES = 320
"""One step of 16-bit samples at 16 kHz: what the frontend takes at a time."""


class WakeListener:
    """Stateful: one stream of sound from beginning to end."""

    def __init__(self, network: Network, frontend: Any, manifest: dict[str, Any]) -> None:
        self._network = network
        self._frontend = frontend
        self._manifest = manifest
        self._rest = b""
        self._features: list[list[float]] = []
        self._stride = network.input_shape[1]

    @classmethod
    def load(cls, model: Path, manifest: Path) -> "WakeListener":
        """Raises EngineError (a library is missing), ModelFileError."""
        try:
            from pymicro_features import MicroFrontend
        except ImportError as error:
            raise EngineError(f"wake words need {error.name}; pip install 'edgeagent[perception]'") from None
        network = Network.load(str(model), XNNPACK, 1)  # the default, as in the library
        if len(network.input_shape) != 3:
            raise ModelFileError(f"{model} is no wake word (input shape {network.input_shape}); fetch the model again")
        facts = _read(manifest)
        return cls(network, MicroFrontend(), facts)  # last: its destructor loses an exception that is on its way

    def facts(self) -> dict[str, object]:
        micro = self._manifest["micro"]
        return {
            "phrase": self._manifest["wake_word"],
            "cutoff": micro["probability_cutoff"],
            "window": micro["sliding_window_size"],
            "first_s": WINDOW_S + (self._stride - 1) * STEP_S,
            "stride_s": self._stride * STEP_S,
        }

    def hear(self, samples: bytes) -> "NDArray[np.float32]":
        """One probability for each stride that is whole now; what is left over waits for the next call."""
        import numpy as np

        found: list[float] = []
        content, position = self._rest + samples, 0
        while position + CHUNK_BYTES <= len(content):
            step = self._frontend.process_samples(content[position : position + CHUNK_BYTES])
            position += 2 * step.samples_read
            if step.features:
                self._features.append(step.features)
            if len(self._features) == self._stride:
                found.append(self._judge())
        self._rest = content[position:]
        return np.array(found, "<f4")

    def _judge(self) -> float:
        import numpy as np

        features, self._features = np.array([self._features]), []
        return float(self._network.outputs(self._network.quantized(features))[0].item())


def _read(manifest: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(manifest.read_text())
        float(content["micro"]["probability_cutoff"]), int(content["micro"]["sliding_window_size"])
        str(content["wake_word"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{manifest} is no manifest of a wake word ({error!r}); fetch the model again") from None
    return content
