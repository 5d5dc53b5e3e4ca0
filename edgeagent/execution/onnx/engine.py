"""The ONNX Runtime engine of a worker process: sentence embeddings, matches word by word, trials of other providers.

The pooling is the one the model was trained with (sentence-transformers/all-MiniLM-L6-v2 model card): the mean of
the last hidden states over the attention mask, scaled to unit length; texts are cut after 256 tokens.
"""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.execution.onnx.graph import NOTE
from edgeagent.execution.onnx.requantize import DYNAMIC, requantize
from edgeagent.execution.onnx.trial import providers, trial
from edgeagent.execution.onnx.voice import CHUNK_SAMPLES, SAMPLE_RATE, VoiceDetector
from edgeagent.execution.worker import Engine, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int64]

CPU = "CPUExecutionProvider"
MAX_TEXT_TOKENS = 256
MAX_BATCH_TOKENS = 512
"""Padded tokens of one run. 2,048 took 480 MB more at the peak and was a quarter slower on long texts."""


def create() -> Engine:
    return OnnxEngine()


class OnnxEngine:
    """Ops `load {model, tokenizer, threads, provider}`, `embed {texts}`, `match {question, texts}`,
    `requantize {source, target}`.

    Also `voice_load {model}`, `voice`, and those of `trial`. Every request is answered before the next is read.
    """

    def __init__(self) -> None:
        self._model: SentenceModel | None = None
        self._voice: VoiceDetector | None = None

    def handle(self, request: Request) -> None:
        if request.op == "load":
            self._load(request)
        elif request.op == "embed":
            self._embed(request)
        elif request.op == "match":
            self._match(request)
        elif request.op == "requantize":
            _requantize(request)
        elif request.op == "voice_load":
            self._voice = VoiceDetector.load(Path(request.params["model"]))
            request.reply(chunk_s=CHUNK_SAMPLES / SAMPLE_RATE)
        elif request.op == "voice":
            self._hear(request)
        elif request.op == "providers":
            providers(request)
        elif request.op == "trial":
            trial(request)
        else:
            raise EngineError(f"the onnx engine has no operation '{request.op}'; use load or embed")

    def cancel(self, request_id: int) -> None:
        """Nothing is ever queued."""

    def step(self) -> None:
        """Nothing is ever queued."""

    @property
    def is_busy(self) -> bool:
        return False

    def _load(self, request: Request) -> None:
        params = request.params
        model, tokenizer = Path(params["model"]), Path(params["tokenizer"])
        self._model = SentenceModel.load(model, tokenizer, int(params["threads"]), str(params.get("provider") or CPU))
        used = self._model.session.get_providers()[0]
        dimensions = self._model.dimensions
        request.reply(dimensions=dimensions, max_tokens=MAX_TEXT_TOKENS, provider=used, version=_runtime_version())

    def _hear(self, request: Request) -> None:
        """Bulk in: 16-bit mono samples at 16 kHz, of any length. Bulk out: one float32 probability a chunk."""
        if self._voice is None:
            raise EngineError("no voice detector is loaded; call voice_load first")
        request.reply([self._voice.hear(request.bulk).tobytes()])

    def _embed(self, request: Request) -> None:
        """Bulk: one row of `dimensions` little-endian float32 values a text, in order."""
        if self._model is None:
            raise EngineError("no embedding model is loaded; call load first")
        vectors = self._model.embed(list(request.params["texts"]))
        request.reply([vectors.tobytes()], count=len(vectors), dimensions=self._model.dimensions)

    def _match(self, request: Request) -> None:
        """Bulk: of each text, in order, one little-endian float32 value for each token of the question."""
        if self._model is None:
            raise EngineError("no embedding model is loaded; call load first")
        question = self._model.tokens(str(request.params["question"]))
        matches = [self._model.matches(question, self._model.tokens(text)) for text in request.params["texts"]]
        request.reply([match.tobytes() for match in matches], tokens=len(question))


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """A tokenizer and an encoder that gives `[batch, tokens, dimensions]` hidden states."""

    session: "InferenceSession"
    tokenizer: "Tokenizer"
    dimensions: int
    is_dynamic: bool
    """Whether texts of one run share the scales of their activations, and so must not share runs."""

    @classmethod
    def load(cls, model: Path, tokenizer: Path, threads: int, provider: str = CPU) -> "SentenceModel":
        """Raises ModelFileError when either file is missing or not what it should be."""
        session = _load_session(model, threads, provider)
        _return_free_memory()
        shape = session.get_outputs()[0].shape
        if len(shape) != 3 or not isinstance(shape[2], int):
            raise ModelFileError(f"{model} is not a sentence encoder (output shape {shape}); fetch the model again")
        notes = session.get_modelmeta().custom_metadata_map
        return cls(session, _load_tokenizer(tokenizer), shape[2], notes.get(NOTE) == DYNAMIC)

    def embed(self, texts: Sequence[str]) -> "Floats":
        """Unit vectors `[texts, dimensions]`, each the same in whatever company its text comes."""
        import numpy as np

        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        vectors = np.empty((len(rows), self.dimensions), dtype="<f4")
        lengths = [len(row) for row in rows]
        for batch in ([i] for i in range(len(rows))) if self.is_dynamic else batches(lengths):
            vectors[batch] = self._run([rows[i] for i in batch])
        if sum(lengths) > MAX_BATCH_TOKENS:
            _return_free_memory()
        return vectors

    def tokens(self, text: str) -> "Floats":
        """Unit vectors `[tokens, dimensions]` of a text's tokens, without the two that enclose it."""
        import numpy as np

        ids = np.array([self.tokenizer.encode(text).ids], np.int64)
        hidden = self.session.run(None, self._inputs(ids, np.ones_like(ids)))[0][0, 1:-1]
        unit: Floats = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        return unit

    def matches(self, question: "Floats", text: "Floats") -> "Floats":
        """For each token of the question the greatest cosine with one of the text's; 0 without any."""
        import numpy as np

        if not len(text):
            return np.zeros(len(question), "<f4")
        best: Floats = (question @ text.T).max(axis=1).astype("<f4")
        return best

    def _run(self, rows: Sequence[Sequence[int]]) -> "Floats":
        import numpy as np

        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        hidden = self.session.run(None, self._inputs(ids, mask))[0]
        return pool(hidden, mask)

    def _inputs(self, ids: "Ids", mask: "Ids") -> dict[str, "Ids"]:
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        return {wanted.name: known[wanted.name] for wanted in self.session.get_inputs()}


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices grouped by similar length, so that little is padding; a group pads to MAX_BATCH_TOKENS at most."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[index] * (len(batch) + 1) > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pool(hidden: "Floats", mask: "Ids") -> "Floats":
    """Mean over the unmasked tokens, then L2 normalisation: `[batch, tokens, d]` to `[batch, d]`."""
    import numpy as np

    weights = mask[:, :, None].astype(np.float32)
    mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    unit: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def _requantize(request: Request) -> None:
    source, target = Path(request.params["source"]), Path(request.params["target"])
    try:
        content = requantize(source.read_bytes())
        target.write_bytes(content)
    except (ValueError, OSError) as error:
        raise ModelFileError(f"{source} cannot be turned into int8 arithmetic: {error}; use it as it is") from None
    request.reply(bytes=len(content))


def _load_session(path: Path, threads: int, provider: str) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The arena never gives memory back: one long batch would stay resident (measured: 34 MB more, no faster).
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(dict.fromkeys((provider, CPU))))
    except Exception as error:  # noqa: BLE001  (the library's errors have no common base but Exception)
        raise ModelFileError(f"embedding model {path} cannot be loaded: {error}; fetch the model again") from None


def _load_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception)
        raise ModelFileError(f"tokenizer {path} cannot be loaded: {error}; fetch the model again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TEXT_TOKENS)
    return tokenizer


def _return_free_memory() -> None:
    """Loading leaves freed blocks behind that glibc keeps (measured: 48 of 218 MB), and so do long texts (29 MB)."""
    with contextlib.suppress(AttributeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
