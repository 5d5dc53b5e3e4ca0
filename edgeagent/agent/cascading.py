"""Two models for one answer: the small one's stands where it is sure enough, else the larger one is asked."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeagent.agent.answering import Answerer
from edgeagent.agent.arriving import left_s
from edgeagent.agent.drafting import Material
from edgeagent.core.chat import ChatRequest, Message
from edgeagent.core.errors import EdgeAgentError, RequestError
from edgeagent.core.events import Event, Finished, Planned, Text
from edgeagent.core.plan import AnswerReport, CascadeReport, PlanKind
from edgeagent.execution.admission import ANYONE, Claim
from edgeagent.model import overlay
from edgeagent.model.cascade import Calibration
from edgeagent.model.confidence import TOP
from edgeagent.model.pool import ModelPool
from edgeagent.model.resident import Resident
from edgeagent.model.watch import Watch

log = logging.getLogger(__name__)

Events = AsyncGenerator[Event, None]


@dataclass(frozen=True, slots=True)
class Place:
    """A request's claim, with a place in the queue of the model `at`; other models have queues of their own."""

    claim: Claim = ANYONE
    at: Resident | None = None

    def claim_on(self, resident: Resident) -> Claim:
        return self.claim if resident is self.at else replace(self.claim, since_s=None)


def ask_small(
    answerer: Answerer,
    request: ChatRequest,
    material: Material,
    small: Resident,
    started_at: float,
    place: Place = Place(),
) -> Events:
    """The small model's own answer, with the log-probabilities that its confidence is made of."""
    sampling = request.sampling.model_copy(update={"logprobs": max(TOP, request.sampling.logprobs or 0)})
    wish = request.edgeagent.model_copy(update={"plan": PlanKind.LOCAL})
    own = request.model_copy(update={"model": small.card.id, "sampling": sampling, "edgeagent": wish})
    return answerer.answer(own, material, small, None, started_at, place.claim_on(small))


async def ask_larger(
    pool: ModelPool,
    answerer: Answerer,
    request: ChatRequest,
    material: Material,
    larger: str,
    small: Resident,
    place: Place = Place(),
) -> AsyncGenerator[Event, None]:
    """The larger model's answer: of this machine, or of a peer that offers it, as the planner decides.

    Peers offer models, whatever the variant: one of the small model's card, or named with a variant, must be here.
    Raises EdgeAgentError when nobody has it.
    """
    model, _, variant = larger.partition("/")
    must_be_here = bool(variant) or model == small.card.id
    async with contextlib.AsyncExitStack() as stack:
        resident = small
        if must_be_here or pool.has(larger):
            resident = await stack.enter_async_context(pool.lease(larger, wait_s=left_s(place.claim)))
        if must_be_here and resident is small:
            own = f"{small.card.id}/{small.variant.name}"
            raise RequestError(f"{larger} is {own} here, the small model; name another one")
        asked = request.model_copy(update={"model": model})
        source = answerer.answer(asked, material, resident, None, time.monotonic(), place.claim_on(resident))
        async with contextlib.aclosing(source) as events:
            async for event in events:
                yield event


class Cascade:
    """`small` and `larger` are `ID` or `ID/VARIANT`; `folder` has the calibrations."""

    def __init__(
        self, pool: ModelPool, answerer: Answerer, folder: Path, *, small: str, larger: str, default_model: str
    ) -> None:
        self._pool = pool
        self._answerer = answerer
        self._folder = folder
        self._small = small
        self._larger = larger
        self._default_model = default_model

    def takes(self, request: ChatRequest, messages: Sequence[Message]) -> bool:
        """Whether the small model is tried: for greedy text from the default model; no named plan, adapter or tools."""
        wish, sampling = request.edgeagent, request.sampling
        is_plain = sampling.temperature == 0 and sampling.grammar is None and not sampling.logit_bias
        has_tools = bool(request.tools) or any(message.role == "tool" for message in messages)
        is_default = request.model in (None, self._default_model)
        is_own = wish.plan == "auto" and wish.adapter is None
        return wish.cascade and is_own and is_default and is_plain and not has_tools

    async def answer(
        self, request: ChatRequest, material: Material, resident: Resident, started_at: float, claim: Claim = ANYONE
    ) -> AsyncGenerator[Event, None]:
        """As `Answerer.answer`; of the small answer nothing is told before it stands. Raises EdgeAgentError.

        `resident` answers when the small model cannot be judged.
        """
        async with contextlib.AsyncExitStack() as stack:
            found = await self._calibrated(stack, claim)
            if isinstance(found, str):
                source = _all_told(self._answerer.answer(request, material, resident, None, started_at, claim), found)
            else:
                source = self._tried(request, material, *found, started_at, Place(claim, resident))
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    yield event

    async def _tried(
        self,
        request: ChatRequest,
        material: Material,
        small: Resident,
        calibration: Calibration,
        started_at: float,
        place: Place,
    ) -> AsyncGenerator[Event, None]:
        trial = _Trial(request, Watch(calibration), place)
        try:
            source = ask_small(self._answerer, request, material, small, started_at, place)
            async with contextlib.aclosing(trial.events(source)) as events:
                async for event in events:
                    yield self._marked(event, self._report(trial, small, calibration))
        except EdgeAgentError as error:
            if trial.stands:
                raise
            trial.note = f"{self._small} failed, so {self._larger} was asked: {error}"
        if not trial.stands:
            report = self._report(trial, small, calibration)
            async with contextlib.aclosing(self._second(request, material, small, trial, report)) as events:
                async for event in events:
                    yield event

    async def _calibrated(self, stack: contextlib.AsyncExitStack, claim: Claim) -> tuple[Resident, Calibration] | str:
        """The small model, in use until the stack is closed, and its calibration; or why there is none."""
        try:
            small = await stack.enter_async_context(self._pool.lease(self._small, wait_s=left_s(claim)))
            card, variant = small.card.id, small.variant
            known = await asyncio.to_thread(overlay.load, self._folder, card)
        except EdgeAgentError as error:
            return f"models.cascade is not used: {error}"
        if calibration := known.calibration(variant.name, variant.sha256, self._larger):
            return small, calibration
        command = f"edgeagent models calibrate {card} --variant {variant.name} --larger {self._larger} --file FILE"
        return f"models.cascade is not used: {card}/{variant.name} was never calibrated; run '{command}'"

    async def _second(
        self, request: ChatRequest, material: Material, small: Resident, trial: "_Trial", report: CascadeReport
    ) -> AsyncGenerator[Event, None]:
        """The larger model's answer; where it has none, the small one's after all."""
        begun_at, has_told = time.monotonic(), False
        source = ask_larger(self._pool, self._answerer, request, material, self._larger, small, trial.place)
        try:
            async with contextlib.aclosing(source) as events:
                async for event in events:
                    has_told = has_told or isinstance(event, Text)
                    done = report.model_copy(update={"larger_s": time.monotonic() - begun_at})
                    yield _told(self._marked(event, done), trial.note)
            return
        except EdgeAgentError as error:
            if has_told or trial.note:
                raise
            note = f"the answer of {self._small} is not sure, and {self._larger} has none: {error}"
        again = trial.whole(ask_small(self._answerer, request, material, small, begun_at, trial.place))
        async with contextlib.aclosing(_all_told(again, note)) as events:
            async for event in events:
                yield self._marked(event, report)

    def _report(self, trial: "_Trial", small: Resident, calibration: Calibration) -> CascadeReport:
        watch = trial.watch
        return CascadeReport(
            small=f"{small.card.id}/{small.variant.name}",
            larger=self._larger,
            confidence=watch.confidence,
            threshold=calibration.threshold if watch.bound is None else watch.bound,
            stood=bool(trial.stands),
            early_at=watch.decided_at,
            small_tokens=watch.num_tokens,
            small_s=trial.decided_s,
        )

    def _marked(self, event: Event, report: CascadeReport) -> Event:
        if not isinstance(event, Finished):
            return event
        log.info("cascade", extra=report.model_dump(exclude_none=True))
        why = f"{_verdict(report)}; {event.report.why}" if not report.stood else _verdict(report)
        return _with(event, cascade=report, why=why)


@dataclass(slots=True)
class _Trial:
    """The small model's answer under way: held back until it stands, left as soon as it is known not to."""

    request: ChatRequest
    watch: Watch
    place: Place
    begun_at: float = field(default_factory=time.monotonic)
    stands: bool | None = None
    decided_s: float = 0.0
    held: list[Event] = field(default_factory=list)
    note: str | None = None

    async def events(self, source: Events) -> AsyncGenerator[Event, None]:
        async with contextlib.aclosing(source) as events:
            async for event in events:
                if self.stands is None:
                    self._judge(event)
                self.held.append(self._shown(event))
                if self.stands is False:
                    return
                while self.stands and self.held:
                    yield self.held.pop(0)

    async def whole(self, source: Events) -> AsyncGenerator[Event, None]:
        """What was held, if that is all of the answer; else the answer made once more."""
        async with contextlib.aclosing(source) as events:
            if self.held and isinstance(self.held[-1], Finished):
                for event in self.held:
                    yield event
                return
            async for event in events:
                yield self._shown(event)

    def _judge(self, event: Event) -> None:
        if isinstance(event, Text):
            self.stands = self.watch.add(event.tokens)
        elif isinstance(event, Finished):
            self.stands = self.watch.end(is_cut=event.reason == "length")
        self.decided_s = time.monotonic() - self.begun_at

    def _shown(self, event: Event) -> Event:
        """As the request asked for it: the plan and the log-probabilities were our own wish."""
        if isinstance(event, Planned):
            return replace(event, requested=False)
        if not isinstance(event, Text):
            return event
        wanted = self.request.sampling.logprobs
        tokens = () if wanted is None else tuple(replace(t, top=t.top[:wanted]) for t in event.tokens)
        return replace(event, tokens=tokens)


def _verdict(report: CascadeReport) -> str:
    if report.confidence is None:
        return f"{report.small} gave no answer"
    sure = f"confidence {report.confidence:.2f}, {report.threshold:.2f} wanted"
    early = f" after {report.early_at} tokens" if report.early_at else ""
    return f"the answer of {report.small} {'stands' if report.stood else 'does not stand'}{early}: {sure}"


async def _all_told(source: Events, note: str) -> AsyncGenerator[Event, None]:
    async with contextlib.aclosing(source) as events:
        async for event in events:
            yield _told(event, note)


def _told(event: Event, note: str | None) -> Event:
    if note is None or not isinstance(event, Finished):
        return event
    return _with(event, notes=(note, *event.report.notes))


def _with(event: Finished, **more: object) -> Finished:
    report: AnswerReport = event.report.model_copy(update=more)
    return replace(event, report=report)
