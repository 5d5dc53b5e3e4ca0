"""The llama.cpp engine of a worker: operations answered at once, and jobs done step by step."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.core.invariance import Invariance
from edgeagent.execution.llama import jobs, prompt, variants
from edgeagent.execution.llama.build import engine_build
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.drafting import Drafting, make_drafting
from edgeagent.execution.llama.generating import generate
from edgeagent.execution.llama.library import engine_version, system_info
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.opening import open_model, settings_for
from edgeagent.execution.llama.pace import Pace
from edgeagent.execution.llama.rig import shape_of, write_rig
from edgeagent.execution.llama.running import Jobs, SharedJob, Waiting, sharing
from edgeagent.execution.llama.stage_jobs import Stages
from edgeagent.execution.llama.stage_loading import load_stage
from edgeagent.execution.llama.surprisal import surprisal
from edgeagent.execution.llama.trial import features, trial
from edgeagent.execution.scheduler import Scheduler
from edgeagent.execution.worker import Request

ALONE: dict[str, Callable[[Context, Request], jobs.Steps]] = {
    "bench": jobs.bench,
    "time": jobs.time_spans,
    "surprisal": surprisal,
}
AT_ONCE: dict[str, Callable[[Context, Request], None]] = {
    "splice": jobs.splice,
    "keep": jobs.keep,
    "held": jobs.held,
    "restore": jobs.restore,
}


class LlamaEngine:
    """One model, one context of several sequences; answers share batches, what measures has the engine for itself."""

    def __init__(self) -> None:
        self._context: Context | None = None
        self._scheduler: Scheduler | None = None
        self._drafting = Drafting()
        self._jobs = Jobs()
        self._stages: Stages | None = None
        self._is_stages_turn = False
        self._pace = Pace()

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs) or (self._stages is not None and self._stages.is_busy)

    def handle(self, request: Request) -> None:
        if share := self._shared(request.op):
            self._jobs.add(sharing(self._loaded(), request, share))
        elif measure := ALONE.get(request.op):
            self._jobs.add(Waiting(request, alone=measure(self._loaded(), request)))
        elif make := variants.JOBS.get(request.op):
            self._jobs.add(Waiting(request, alone=make(request)))
        elif answer := AT_ONCE.get(request.op):
            answer(self._loaded(), request)
        elif request.op.startswith("stage_"):
            self._handle_stage(request)
        else:
            self._answer(request)

    def _shared(self, op: str) -> SharedJob | None:
        match op:
            case "generate":
                return partial(generate, drafting=self._drafting)
            case "prefill":
                return jobs.prefill
            case _:
                return None

    def _handle_stage(self, request: Request) -> None:
        stages = self._stages
        if stages is None:
            raise EngineError("no model is loaded in this worker")
        match request.op:
            case "stage_open":
                stages.open(request)
            case "stage_run":
                stages.run(request)
            case "stage_cells":
                stages.cells(request)
            case "stage_splice":
                stages.splice(self._loaded(), request)
            case "stage_close":
                stages.close(request)
            case _:
                raise EngineError(f"the llama engine has no operation '{request.op}'")

    def _answer(self, request: Request) -> None:
        match request.op:
            case "load":
                self._load(request)
            case "load_stage":
                self._stages = load_stage(request)
            case "encode":
                self._encode(request)
            case "tokenize":
                text = str(request.params["text"])
                request.reply(tokens=self._model().tokenize(text, add_special=False, parse_special=False))
            case "count":
                self._count(request)
            case "set_threads":
                self._set_threads(int(request.params["threads"]))
                request.reply()
            case "set_duty":
                self._pace.set_duty(float(request.params["duty"]))
                request.reply()
            case "rig":
                p = request.params
                request.reply(elements=write_rig(shape_of(p), str(p["target"])))
            case "trial":
                trial(request)
            case "features":
                features(request)
            case "version":
                request.reply(version=engine_version(), system=system_info())
            case _:
                raise EngineError(f"the llama engine has no operation '{request.op}'")

    def step(self) -> None:
        """One batch, or one unit of other work, or of the rest that earlier ones owe (measuring never rests)."""
        measures = self._jobs.alone is not None and self._jobs.alone.request.op == "bench"
        if not measures and self._pace.rested():
            return
        started = time.perf_counter()
        self._step_one()
        self._pace.worked(time.perf_counter() - started)

    def _step_one(self) -> None:
        """Answers and stages take turns; what needs the engine alone has it."""
        stages, is_alone = self._stages, self._jobs.alone is not None
        if stages is not None and stages.is_busy and not is_alone and (self._is_stages_turn or not self._jobs):
            self._is_stages_turn = False
            stages.step()
        else:
            self._is_stages_turn = True
            self._jobs.step(self._context, self._scheduler)

    def cancel(self, request_id: int) -> None:
        self._jobs.cancel(request_id)
        if self._stages is not None:
            self._stages.cancel(request_id)

    def _set_threads(self, threads: int) -> None:
        if self._stages is not None:
            self._stages.set_threads(threads)
        if self._context is not None:
            self._context.set_threads(threads)

    def _loaded(self) -> Context:
        if self._context is None:
            raise EngineError("no model is loaded in this worker")
        return self._context

    def _model(self) -> Model:
        """Whole, or a stage: each has the vocabulary and the template."""
        return self._stages.model if self._stages is not None else self._loaded().model

    def _load(self, request: Request) -> None:
        p = request.params
        model = open_model(p)
        invariance = Invariance.model_validate(p.get("invariance") or {})
        one = settings_for(model, p)
        settings = replace(one, sequences=int(p.get("sequences", 1)), is_free=invariance.free_prefill)
        self._context = Context(model, settings)
        self._stages = Stages(model, self._context.settings)
        self._scheduler = Scheduler(invariance.decode_batch, self._context.settings.chunk_tokens)
        self._drafting = make_drafting(self._context, invariance, p)
        gc.freeze()  # what is here stays, and need not be looked through between tokens
        request.reply(
            engine_version=engine_version(),
            engine_build=engine_build(),
            system=system_info(),
            layers=model.layers,
            width=model.width,
            heads=model.heads,
            kv_heads=model.kv_heads,
            vocab=model.num_vocab,
            context_tokens=self._context.settings.context_tokens,
            has_template=model.chat_template is not None,
            kv_bytes_per_token=self._context.bytes_per_token,
            kv_planes=self._context.planes,
            can_prune=not model.has_window,
            draft_fault=self._drafting.fault,
        )

    def _encode(self, request: Request) -> None:
        turns = [{str(k): str(v) for k, v in turn.items()} for turn in request.params["messages"]]
        if not turns:
            raise RequestError("there are no messages; send at least one")
        prefix = str(request.params.get("answer_prefix", ""))
        tokens, note = prompt.encode(self._model(), turns, answer_prefix=prefix)
        request.reply(tokens=tokens, note=note)

    def _count(self, request: Request) -> None:
        model = self._model()
        texts = [str(text) for text in request.params["texts"]]
        request.reply(counts=[len(model.tokenize(t, add_special=False, parse_special=False)) for t in texts])


def create() -> LlamaEngine:
    return LlamaEngine()
