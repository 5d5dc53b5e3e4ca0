"""Bare llama.cpp calls in a process of their own, as llama.cpp's own bench makes them: the yardstick of the engine.

As a program it takes one JSON command a line and answers each with one JSON line of seconds.
"""

import contextlib
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCH_TOKENS = 512
"""llama.cpp's own physical batch (llama-bench, `-ub`)."""
Q8_0 = 8


@dataclass(frozen=True, slots=True)
class RawSettings:
    path: str
    threads: int
    context_tokens: int
    sequences: int
    extra_buffers: bool


class Raw:
    """A context of several sequences with a q8_0 cache and flash attention."""

    def __init__(self, settings: RawSettings) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        model.use_extra_bufts, model.n_gpu_layers = settings.extra_buffers, 0
        self._model = llama_cpp.llama_model_load_from_file(settings.path.encode(), model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings.context_tokens * settings.sequences
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max, params.kv_unified = settings.sequences, False
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type, params.type_k, params.type_v = 1, Q8_0, Q8_0
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._num_vocab = llama_cpp.llama_vocab_n_tokens(vocab)

    def decode(self, past: Sequence[int], num_tokens: int, streams: int) -> list[float]:
        """Seconds of each step: one more token of every stream, all of them behind `past`. Nothing is sampled."""
        self._clear()
        for stream in range(streams):
            self._fill(past, 0, stream)
        seconds = []
        for i in range(num_tokens):
            started = time.perf_counter()
            self._evaluate([(past[i % len(past)], len(past) + i, stream) for stream in range(streams)])
            seconds.append(time.perf_counter() - started)
        return seconds

    def prefill(self, past: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Seconds from the first of `tokens`, behind `past`, to the most likely next one."""
        import numpy as np

        self._clear()
        self._fill(past, 0, 0)
        started = time.perf_counter()
        self._fill(tokens, len(past), 0)
        logits = self._lib.llama_get_logits_ith(self._context, -1)
        np.ctypeslib.as_array(logits, (self._num_vocab,)).argmax()
        return [time.perf_counter() - started]

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def _fill(self, tokens: Sequence[int], first: int, stream: int) -> None:
        for begin in range(0, len(tokens), BATCH_TOKENS):
            piece = tokens[begin : begin + BATCH_TOKENS]
            self._evaluate([(token, first + begin + i, stream) for i, token in enumerate(piece)], last_only=True)

    def _evaluate(self, rows: Sequence[tuple[int, int, int]], *, last_only: bool = False) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, stream) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0] = stream
            batch.logits[i] = not last_only or i == len(rows) - 1
        if self._lib.llama_decode(self._context, batch) != 0:
            raise RuntimeError(f"llama.cpp could not evaluate {len(rows)} tokens")
        self._lib.llama_synchronize(self._context)


class RawProcess:
    """The handle to `Raw` in another process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def decode(self, past: Sequence[int], num_tokens: int, streams: int = 1) -> list[float]:
        return self._ask({"do": "decode", "past": past, "num_tokens": num_tokens, "streams": streams})

    def prefill(self, tokens: Sequence[int], past: Sequence[int] = ()) -> float:
        return self._ask({"do": "prefill", "past": past, "tokens": tokens})[0]

    def _ask(self, command: dict[str, object]) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def raw_process(settings: RawSettings) -> Iterator[RawProcess]:
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(settings))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield RawProcess(process)
        finally:
            process.terminate()


def main() -> None:
    raw = Raw(RawSettings(**json.loads(sys.argv[1])))
    for line in sys.stdin:
        command = json.loads(line)
        match command.pop("do"):
            case "decode":
                print(json.dumps(raw.decode(**command)), flush=True)
            case "prefill":
                print(json.dumps(raw.prefill(**command)), flush=True)


if __name__ == "__main__":
    main()
