"""The llama.cpp engine of a worker: operations answered at once, and a queue of jobs done step by step."""

import time
from collections import deque
from collections.abc import Callable

from edgeagent.core.errors import EdgeAgentError, EngineError, RequestError
from edgeagent.execution.llama import jobs, prompt, variants
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import engine_version, system_info
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.pace import Pace
from edgeagent.execution.llama.rig import shape_of, write_rig
from edgeagent.execution.llama.trial import LOAD_MODES, features, trial
from edgeagent.execution.worker import Request

JOBS: dict[str, Callable[[Context, Request], jobs.Steps]] = {
    "generate": jobs.generate,
    "prefill": jobs.prefill,
    "bench": jobs.bench,
    "time": jobs.time_spans,
}


class LlamaEngine:
    """One model, one context, one job at a time; the others wait in order."""

    def __init__(self) -> None:
        self._context: Context | None = None
        self._queue: deque[tuple[Request, jobs.Steps]] = deque()
        self._pace = Pace()

    @property
    def is_busy(self) -> bool:
        return bool(self._queue)

    def handle(self, request: Request) -> None:
        if job := JOBS.get(request.op):
            self._queue.append((request, job(self._loaded(), request)))
            return
        if make := variants.JOBS.get(request.op):
            self._queue.append((request, make(request)))
            return
        match request.op:
            case "load":
                self._load(request)
            case "encode":
                self._encode(request)
            case "tokenize":
                text = str(request.params["text"])
                request.reply(tokens=self._loaded().model.tokenize(text, add_special=False, parse_special=False))
            case "count":
                self._count(request)
            case "set_threads":
                self._loaded().set_threads(int(request.params["threads"]))
                request.reply()
            case "set_duty":
                self._pace.set_duty(float(request.params["duty"]))
                request.reply()
            case "rig":
                p = request.params
                request.reply(elements=write_rig(shape_of(p), str(p["target"])))
            case "splice":
                jobs.splice(self._loaded(), request)
            case "trial":
                trial(request)
            case "features":
                features(request)
            case "version":
                request.reply(version=engine_version(), system=system_info())
            case _:
                raise EngineError(f"the llama engine has no operation '{request.op}'")

    def step(self) -> None:
        """One unit of work of the oldest job, or of the rest that earlier ones owe (measuring never rests)."""
        request, steps = self._queue[0]
        if request.op != "bench" and self._pace.rested():
            return
        started = time.perf_counter()
        try:
            next(steps)
        except StopIteration:
            self._queue.popleft()
        except EdgeAgentError as error:
            self._queue.popleft()
            request.fail(error)
        self._pace.worked(time.perf_counter() - started)

    def cancel(self, request_id: int) -> None:
        for entry in [e for e in self._queue if e[0].id == request_id]:
            entry[1].close()
            self._queue.remove(entry)

    def _loaded(self) -> Context:
        if self._context is None:
            raise EngineError("no model is loaded in this worker")
        return self._context

    def _load(self, request: Request) -> None:
        p = request.params
        gpu_layers = int(p.get("gpu_layers", 0))
        model = Model(
            str(p["path"]),
            extra_buffers=bool(p["extra_buffers"]),
            gpu_layers=gpu_layers,
            load_mode=LOAD_MODES[str(p.get("load_mode", "map"))],
            experts_on_cpu=bool(p.get("experts_on_cpu")),
        )
        self._context = Context(
            model,
            ContextSettings(
                context_tokens=min(int(p["context_tokens"]), model.context_train),
                kv_type=str(p["kv_type"]),
                flash_attention=bool(p["flash_attention"]),
                threads=int(p["threads"]),
                chunk_tokens=int(p["chunk_tokens"]),
                offload=gpu_layers > 0,
            ),
        )
        request.reply(
            engine_version=engine_version(),
            system=system_info(),
            layers=model.layers,
            width=model.width,
            heads=model.heads,
            kv_heads=model.kv_heads,
            vocab=model.num_vocab,
            context_tokens=self._context.settings.context_tokens,
            has_template=model.chat_template is not None,
            kv_bytes_per_token=self._context.bytes_per_token,
        )

    def _encode(self, request: Request) -> None:
        turns = [{str(k): str(v) for k, v in turn.items()} for turn in request.params["messages"]]
        if not turns:
            raise RequestError("there are no messages; send at least one")
        prefix = str(request.params.get("answer_prefix", ""))
        tokens, note = prompt.encode(self._loaded().model, turns, answer_prefix=prefix)
        request.reply(tokens=tokens, note=note)

    def _count(self, request: Request) -> None:
        model = self._loaded().model
        texts = [str(text) for text in request.params["texts"]]
        request.reply(counts=[len(model.tokenize(t, add_special=False, parse_special=False)) for t in texts])


def create() -> LlamaEngine:
    return LlamaEngine()
