"""The jobs of an engine: those that share batches, and those that need it for themselves, in the order they came."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeagent.core.errors import EdgeAgentError, EngineError
from edgeagent.execution import scheduler
from edgeagent.execution.fairness import Urgency
from edgeagent.execution.llama import jobs
from edgeagent.execution.llama.context import Context, Item
from edgeagent.execution.llama.slots import Slot, claim
from edgeagent.execution.worker import Request

SharedJob = Callable[[Context, Slot, Request, jobs.Text], jobs.SharedSteps]


@dataclass(slots=True)
class Shared:
    """A job in a slot, and what it wants next."""

    number: int
    request: Request
    slot: Slot
    steps: jobs.SharedSteps
    want: jobs.Want
    urgency: Urgency

    @property
    def wish(self) -> scheduler.Want:
        want = self.want
        is_alone = bool(self.slot.adapter)  # a batch has one adapter, and is probed without any
        priority, due_s = self.urgency.priority, self.urgency.due_s
        return scheduler.Want(self.number, want.kind, len(want.tokens), want.span, priority, due_s, is_alone)


@dataclass(slots=True)
class Waiting:
    """A job that has not begun: one that shares batches, or the steps of one that cannot."""

    request: Request
    share: "Share | None" = None
    alone: jobs.Steps | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A job that shares batches: `begin` gets the `text`, which was checked when the request came."""

    begin: SharedJob
    text: jobs.Text
    urgency: Urgency


def sharing(context: Context, request: Request, begin: SharedJob) -> Waiting:
    """Raises RequestError, ContextLengthError."""
    return Waiting(request, Share(begin, jobs.tokens_of(context, request), jobs.urgency_of(request)))


@dataclass(slots=True)
class Jobs:
    """Begins jobs in order and advances them by one batch, or one unit of work, a step."""

    waiting: deque[Waiting] = field(default_factory=deque)
    running: dict[int, Shared] = field(default_factory=dict)
    alone: Waiting | None = None
    _num_begun: int = 0

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running or self.alone)

    def add(self, waiting: Waiting) -> None:
        self.waiting.append(waiting)

    def step(self, context: Context | None, scheduling: scheduler.Scheduler | None) -> None:
        self._begin(context)
        if self.alone is not None:
            self._step_alone(self.alone)
        elif self.running:
            assert context is not None
            assert scheduling is not None
            self._step_shared(context, scheduling)

    def cancel(self, request_id: int) -> None:
        """End a job; its slot keeps what was evaluated."""
        for waiting in [w for w in self.waiting if w.request.id == request_id]:
            self.waiting.remove(waiting)
        for job in [j for j in self.running.values() if j.request.id == request_id]:
            self._end(job)
        if self.alone is not None and self.alone.request.id == request_id:
            assert self.alone.alone is not None
            self.alone.alone.close()
            self.alone = None

    def _begin(self, context: Context | None) -> None:
        """As many as there are slots. One that needs the engine alone waits for the others and keeps new ones out."""
        while self.waiting and self.alone is None:
            first = self.waiting[0]
            if first.share is None:
                if self.running:
                    return
                self.alone = self.waiting.popleft()
                return
            assert context is not None
            try:
                if not self._begin_shared(context, first, first.share):
                    return
            except EdgeAgentError as error:
                first.request.fail(error)
            self.waiting.popleft()

    def _begin_shared(self, context: Context, waiting: Waiting, share: Share) -> bool:
        """False when every slot is taken. Raises what the job raises."""
        text = share.text
        adapter, path = jobs.adapter_of(waiting.request), str(waiting.request.params.get("adapter_path") or "")
        context.adapters.load(adapter, path, {slot.adapter for slot in context.slots if slot.is_busy})
        spans = context.canonical_spans(len(text.prompt), len(text.output), adapter)
        slot = claim(context.slots, text.prompt + text.output, spans, adapter)
        if slot is None:
            return False
        self._num_begun += 1
        steps = share.begin(context, slot, waiting.request, text)
        try:
            want = next(steps)
        except StopIteration:
            slot.release()
        except BaseException:
            slot.release()
            raise
        else:
            number = self._num_begun
            self.running[number] = Shared(number, waiting.request, slot, steps, want, share.urgency)
        return True

    def _step_alone(self, waiting: Waiting) -> None:
        assert waiting.alone is not None
        try:
            next(waiting.alone)
        except StopIteration:
            self.alone = None
        except EdgeAgentError as error:
            self.alone = None
            waiting.request.fail(error)

    def _step_shared(self, context: Context, scheduling: scheduler.Scheduler) -> None:
        if len(self.running) == 1:  # nothing to choose: between two tokens every microsecond counts
            (job,) = self.running.values()
            self._evaluate(context, [(job, scheduling.whole(len(job.want.tokens), job.want.span))])
            return
        wishes = [job.wish for job in self.running.values()]
        grants = scheduling.plan(wishes)
        chosen = [(self.running[grant.number], grant.num_tokens) for grant in grants]
        if (seconds := self._evaluate(context, chosen)) is not None:
            scheduling.observe(wishes, grants, seconds)

    def _evaluate(self, context: Context, chosen: Sequence[tuple[Shared, int]]) -> float | None:
        """One batch of so many tokens of each of these jobs, which go on; seconds it took, None if it failed."""
        items = [_item(job.want, job.slot, count) for job, count in chosen]
        started = time.perf_counter()
        try:
            rows = context.evaluate(items)
        except EngineError as error:
            for job, _ in chosen:
                self._fail(job, error)
            return None
        seconds = time.perf_counter() - started
        for (job, count), row in zip(chosen, rows, strict=True):
            self._resume(job, jobs.Granted(count, row, seconds, len(chosen) == 1))
        return seconds

    def _resume(self, job: Shared, granted: jobs.Granted) -> None:
        try:
            job.want = job.steps.send(granted)
        except StopIteration:
            self._end(job)
        except EdgeAgentError as error:
            self._fail(job, error)

    def _fail(self, job: Shared, error: EdgeAgentError) -> None:
        self._end(job)
        job.request.fail(error)

    def _end(self, job: Shared) -> None:
        job.steps.close()
        job.slot.release()
        del self.running[job.number]


def _item(want: jobs.Want, slot: Slot, num_tokens: int) -> Item:
    is_decode = want.kind is scheduler.Kind.DECODE
    return Item(slot, want.tokens[:num_tokens], all_logits=is_decode, as_singles=is_decode)
