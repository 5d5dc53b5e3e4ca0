"""The assistant: recalls, lets the agent's loop decide on tools, answers. What every surface talks to."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeagent.agent.answering import Answerer, adapter_of
from edgeagent.agent.arriving import Door, claim_of
from edgeagent.agent.builtin import CalculatorTool, ClockTool, MemoryTool
from edgeagent.agent.cascading import Cascade
from edgeagent.agent.drafting import Material
from edgeagent.agent.earlier import EarlierTurns
from edgeagent.agent.idle import IdleWork
from edgeagent.agent.layout import Layout
from edgeagent.agent.loop import Agent
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.notebook import Notebook
from edgeagent.agent.prompting import as_first_asked, question_of, split_pasted, system_of, told_apart
from edgeagent.agent.seen_prompts import SeenPrompts
from edgeagent.agent.selection import ToolSelector
from edgeagent.agent.sightings import Sightings
from edgeagent.agent.stored import Stored
from edgeagent.agent.toolcall import ToolCaller
from edgeagent.agent.tools import Tool, ToolRegistry
from edgeagent.core.chat import ChatRequest, Message, ToolChoice
from edgeagent.core.errors import DownloadError, EngineError, ModelFileError, RequestError
from edgeagent.core.events import Event, Finished, FinishReason, Governed, RecalledMemories, Text, ToolCalled, Usage
from edgeagent.core.memory import Embedder, MemoryHit, MemoryItem
from edgeagent.core.plan import AnswerReport, Decision, MemoryReport, PlanKind, PlanQuery, Recalled, ReductionLevel
from edgeagent.execution.admission import Claim
from edgeagent.model.reduction import similarity
from edgeagent.model.resident import Resident
from edgeagent.resource.drift import Sample

RECALL_ITEMS = 5
MIN_RECALL_SIMILARITY = 0.35
"""Cosine of MiniLM vectors below which a memory has nothing to do with a question: over 72 pairs written for this, the
unrelated reached 0.31 ("Name a colour." and a sister's name), the related began at 0.38."""

UNEMBEDDED = (ReductionLevel.L0, ReductionLevel.L5)
"""Levels of reduction that compare no sentences."""


class Assistant:
    """`memory` is None when it is switched off; `now` gives Unix seconds."""

    def __init__(
        self,
        door: Door,
        answerer: Answerer,
        embedder: Embedder,
        memory: Memory | None,
        *,
        tools: Sequence[str],
        new_id: Callable[[], str],
        now: Callable[[], float],
        layout: Literal["stable", "as_given"] = "stable",
        cascade: Cascade | None = None,
        on_local_answer: Callable[[Resident, Sample], None] = lambda _resident, _sample: None,
        writes_back: bool = False,
        idle: IdleWork | None = None,
    ) -> None:
        self._door = door
        self._answerer = answerer
        self._embedder = embedder
        self._selector = ToolSelector(embedder)
        self._memory = memory
        self._tools = tools
        self._new_id = new_id
        self._now = now
        self._layout = layout
        self._seen = SeenPrompts()
        self._earlier = EarlierTurns()
        self._sightings = Sightings()
        self.cascade = cascade
        self._on_local_answer = on_local_answer
        self._writes_back = writes_back
        self._idle = idle

    async def answer(self, request: ChatRequest, user: str) -> AsyncGenerator[Event, None]:
        """The events of one answer, `Finished` last. Raises EdgeAgentError."""
        started_at = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            if self._idle:
                stack.enter_context(self._idle.disturbed())
            entering = self._door.entered(request, claim_of(request, user, started_at))
            resident, claim = await stack.enter_async_context(entering)
            await adapter_of(request, resident)  # an unknown name is an error before anything is done
            events = self._answered(request, user, resident, claim, started_at)
            async with contextlib.aclosing(events) as stream:
                async for event in stream:
                    yield event

    async def _answered(
        self, request: ChatRequest, user: str, resident: Resident, claim: Claim, started_at: float
    ) -> AsyncGenerator[Event, None]:
        """The answer to a request that has its place in the queue."""
        told: tuple[str, ...] = ()
        lack = await self._lack_of_encoder(request)
        if lack:
            request = _without_encoder(request)
        elif resident.head is not None:
            lack, request = _lack_of_whole(request, resident), _without_tools(request)
        stored = await self._stored(request, user)
        memories = await self._recall(request, user)
        if memories:
            yield RecalledMemories(tuple((Recalled(id=h.item.id, score=h.score), h.item.text) for h in memories))
        notebook = Notebook(self._memory) if self._memory and request.edgeagent.memory else None
        earlier = await self._kept(request, user)
        self._earlier.keep(user, request.messages, [hit.item for hit in memories])
        turn = _Turn(self, request, user, resident, memories, earlier, stored, started_at, claim)
        if request.tool_choice.mode == "none" or not (request.tools or request.edgeagent.agent):
            events = turn.answer(request.messages, None)
        else:
            events = self._agent(request, resident, notebook, claim).run(request, user, turn.answer)
        last: Event | None = None
        said: list[str] = []
        async with contextlib.aclosing(events) as stream:
            async for last in stream:
                if isinstance(last, Text):
                    said.append(last.text)
                if (reasons := self._door.reasons_since(started_at)) != told:
                    told = reasons
                    yield Governed(reasons)
                if isinstance(last, Finished):
                    await self._ended(request, user, notebook, stored, "".join(said))
                    if sample := _sample(last):
                        self._on_local_answer(resident, sample)
                yield _with_notes(notebook.reported(last) if notebook else last, lack, *told)
        if not isinstance(last, Finished):
            self._sighted(request, stored, "".join(said))
            yield _with_notes(await self._finished(request, resident, memories, last), *told)

    async def _ended(
        self, request: ChatRequest, user: str, notebook: Notebook | None, stored: Stored | None, answer: str
    ) -> None:
        """What an answer leaves behind: memories, and work for quiet times."""
        self._sighted(request, stored, answer)
        if notebook and self._writes_back and request.edgeagent.agent:
            await notebook.write_back(user, question_of(request.messages))
        if stored and self._idle:
            self._idle.note(user, request.messages, stored.seen)

    def _sighted(self, request: ChatRequest, stored: Stored | None, answer: str) -> None:
        if stored:
            self._sightings.answered(stored.user, request.messages, answer, stored.seen)

    async def price(self, query: PlanQuery) -> Decision:
        """What the planner would choose for a request of that size now. Raises NoPlanError, ContextLengthError."""
        async with self._door.lease(None) as resident:
            return await self._answerer.price(query, resident)

    @property
    def answerer(self) -> Answerer:
        return self._answerer

    async def _stored(self, request: ChatRequest, user: str) -> Stored | None:
        """What the user's memory knows of texts, before any is recalled; None where the request leaves memory out."""
        if self._memory is None or not request.edgeagent.memory:
            return None
        num_forgettings = await self._memory.forgettings(user)
        return Stored(self._memory, user, self._sightings.begun(user, request.messages, num_forgettings))

    def laid_out(self, request: ChatRequest, user: str, messages: Sequence[Message]) -> Layout:
        """Where the instructions' lines go: those that change, to the newest question, if there is one."""
        system, wanted = system_of(messages), request.edgeagent.layout or self._layout
        if wanted == "as_given" or not any(m.role == "user" for m in messages):
            return Layout(system)
        return self._seen.arrange(user, system)

    async def _lack_of_encoder(self, request: ChatRequest) -> str | None:
        """Why memory, tools and reduction cannot work now; None when they can, or none of them is asked for.

        A demanded tool call raises instead.
        """
        if not self._takes_encoder(request):
            return None
        try:
            await self._embedder.embed([question_of(request.messages) or "ready"])
        except (DownloadError, ModelFileError, EngineError) as error:
            if request.tool_choice.mode in ("required", "named"):
                raise
            return f"answered without memory, tools and reduction, which need the sentence encoder: {error}"
        return None

    def _takes_encoder(self, request: ChatRequest) -> bool:
        wish = request.edgeagent
        has_tools = request.tool_choice.mode != "none" and bool(request.tools or wish.agent)
        has_memory = self._memory is not None and wish.memory
        return has_tools or has_memory or (wish.reduce not in UNEMBEDDED and _has_documents(request))

    async def _recall(self, request: ChatRequest, user: str) -> list[MemoryHit]:
        question = question_of(request.messages)
        if self._memory is None or not request.edgeagent.memory or not question.strip():
            return []
        hits = await self._memory.search(user, question, RECALL_ITEMS)
        if not hits:
            return []
        asked, *vectors = await self._embedder.embed([question, *(hit.item.text for hit in hits)])
        close = zip(hits, vectors, strict=True)
        return [hit for hit, vector in close if similarity(asked, vector) >= MIN_RECALL_SIMILARITY]

    async def _kept(self, request: ChatRequest, user: str) -> Mapping[int, Sequence[MemoryItem]]:
        """What was recalled for the earlier questions, as far as it was not forgotten since."""
        if self._memory is None or not request.edgeagent.memory:
            return {}
        earlier = self._earlier.of(user, request.messages)
        texts = list({item.text for items in earlier.values() for item in items})
        held = {text for text, is_held in zip(texts, await self._memory.holds(user, texts), strict=True) if is_held}
        return {at: [item for item in items if item.text in held] for at, items in earlier.items()}

    def _agent(self, request: ChatRequest, resident: Resident, notebook: Notebook | None, claim: Claim) -> Agent:
        available: dict[str, Tool] = {"clock": ClockTool(self._now), "calculator": CalculatorTool()}
        if notebook:
            available["memory"] = MemoryTool(notebook)
        own = [available[name] for name in self._tools if name in available] if request.edgeagent.agent else []
        caller = ToolCaller(_Completer(self._answerer, resident, claim), self._selector, self._new_id)
        return Agent(caller, ToolRegistry(own))

    async def _finished(
        self, request: ChatRequest, resident: Resident, memories: Sequence[MemoryHit], last: Event | None
    ) -> Finished:
        """The end of an answer that the loop gave by itself: a call for the client to make, or an apology."""
        is_call = isinstance(last, ToolCalled)
        told = [last.call.arguments] if isinstance(last, ToolCalled) else []
        prompt, *made = await resident.local.count(["\n".join(m.content for m in request.messages), *told])
        reason: FinishReason = "tool_calls" if is_call else "stop"
        report = AnswerReport(
            plan=PlanKind.LOCAL,
            model=resident.card.id,
            variant=resident.variant.name,
            why="a tool call is decided here: it is short, and it needs the tools' descriptions",
            seed=request.sampling.seed,
            memory=MemoryReport(recalled=tuple(Recalled(id=h.item.id, score=h.score) for h in memories)),
        )
        return Finished(reason, Usage(prompt, sum(made)), report)


@dataclass(frozen=True, slots=True)
class _Completer:
    answerer: Answerer
    resident: Resident
    claim: Claim

    async def complete(self, messages: Sequence[Message], *, max_tokens: int, grammar: str | None = None) -> str:
        return await self.answerer.complete(
            self.resident, messages, max_tokens=max_tokens, grammar=grammar, claim=self.claim
        )


@dataclass(frozen=True, slots=True)
class _Turn:
    """Writes the text of one turn, once the loop has decided that there is text to write."""

    assistant: Assistant
    request: ChatRequest
    user: str
    resident: Resident
    memories: Sequence[MemoryHit]
    earlier: Mapping[int, Sequence[MemoryItem]]
    stored: Stored | None
    started_at: float
    claim: Claim

    def answer(self, messages: Sequence[Message], grammar: str | None) -> AsyncGenerator[Event, None]:
        shown = as_first_asked(messages, {at: [item.text for item in items] for at, items in self.earlier.items()})
        kept, pasted = split_pasted(shown)
        documents = told_apart((*self.request.documents, pasted) if pasted else self.request.documents)
        layout = self.assistant.laid_out(self.request, self.user, kept)
        material = Material(
            kept,
            documents,
            self.memories,
            question_of(kept),
            layout,
            _ids(self.earlier),
            said=messages,
            stored=self.stored,
        )
        if (cascade := self.assistant.cascade) and grammar is None and cascade.takes(self.request, messages):
            return cascade.answer(self.request, material, self.resident, self.started_at, self.claim)
        return self.assistant.answerer.answer(
            self.request, material, self.resident, grammar, self.started_at, self.claim
        )


def _has_documents(request: ChatRequest) -> bool:
    return bool(request.documents or split_pasted(request.messages)[1])


def _ids(earlier: Mapping[int, Sequence[MemoryItem]]) -> Mapping[int, Sequence[str]]:
    return {at: [item.id for item in items] for at, items in earlier.items()}


def _sample(finished: Finished) -> Sample | None:
    """What an answer of this machine alone tells of its speed; None for others."""
    report = finished.report
    predicted, measured = report.predicted, report.measured
    if (
        report.plan is not PlanKind.LOCAL
        or report.handover
        or report.cascade
        or report.adapter
        or predicted.ttft_s is None
        or predicted.tpot_s is None
    ):
        return None
    return Sample(
        prompt_tokens=finished.usage.prompt_tokens,
        answer_tokens=finished.usage.completion_tokens,
        ttft_s=None if report.reused_tokens else measured.ttft_s,
        predicted_ttft_s=predicted.ttft_s,
        tpot_s=None if report.accepted_tokens else measured.tpot_s,
        predicted_tpot_s=predicted.tpot_s,
    )


def _lack_of_whole(request: ChatRequest, resident: Resident) -> str | None:
    """Why there are no tools where only a head of the model is here. Raises RequestError when a call is demanded."""
    if not (request.tools or request.edgeagent.agent) or request.tool_choice.mode == "none":
        return None
    lack = f"without tools, which need a whole model here, and only the first layers of {resident.card.id} are"
    if request.tool_choice.mode in ("required", "named"):
        raise RequestError(f"no tool can be called {lack}; ask another model")
    return f"answered {lack}" if request.tools else None


def _without_tools(request: ChatRequest) -> ChatRequest:
    wish = request.edgeagent.model_copy(update={"agent": False})
    return request.model_copy(update={"tool_choice": ToolChoice(mode="none"), "edgeagent": wish})


def _without_encoder(request: ChatRequest) -> ChatRequest:
    """The request as it can be answered from the chat model alone."""
    wish = request.edgeagent.model_copy(update={"memory": False, "agent": False, "reduce": ReductionLevel.L0})
    return request.model_copy(update={"tool_choice": ToolChoice(mode="none"), "edgeagent": wish})


def _with_notes(event: Event, *found: str | None) -> Event:
    notes = [note for note in found if note is not None]
    if not isinstance(event, Finished) or not notes:
        return event
    return replace(event, report=event.report.model_copy(update={"notes": (*notes, *event.report.notes)}))
