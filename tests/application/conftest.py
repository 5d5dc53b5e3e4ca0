"""A server on a loopback port, answering from a script: the same events as the real assistant, without a model."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgeagent.application.backend import Load, PeerFacts
from edgeagent.application.http.server import HttpServer, start_http
from edgeagent.core.cards import Architecture, ModelCard, QuantizedSource, Variant
from edgeagent.core.chat import ChatRequest, ToolCall
from edgeagent.core.config import HttpConfig
from edgeagent.core.errors import BusyError, EdgeAgentError, NotFoundError
from edgeagent.core.events import (
    Event,
    Finished,
    HandedOver,
    Planned,
    RecalledMemories,
    Reduced,
    Text,
    ToolCalled,
    ToolReturned,
    Usage,
)
from edgeagent.core.hardware import Cpu, EngineFacts, MemoryFacts, Profile, Rates, Storage, Verdict
from edgeagent.core.memory import MemoryHit, MemoryItem
from edgeagent.core.plan import (
    AnswerReport,
    Candidate,
    Costs,
    Decision,
    Dropped,
    Handover,
    MemoryReport,
    PlanKind,
    PlanQuery,
    Recalled,
    ReductionLevel,
    ReductionReport,
)
from edgeagent.execution.split_drafts import SplitDrafts

MODEL = "smollm2-135m-instruct"

LOCAL = Candidate(
    plan=PlanKind.LOCAL, model=MODEL, variant="Q4_1", reduction=ReductionLevel.L2,
    ttft_s=2.61, tpot_s=0.018, total_s=4.9, memory_bytes=168_000_000, quality=23.12,
)  # fmt: skip
PREFILL = Candidate(
    plan=PlanKind.PREFILL, peer="garage", model=MODEL, variant="Q4_1", reduction=ReductionLevel.L2,
    ttft_s=0.74, tpot_s=0.018, total_s=3.0, up_bytes=2_900, down_bytes=9_800_000, memory_bytes=168_000_000,
    quality=23.12, wire_bits=8,
)  # fmt: skip
REMOTE = Candidate(
    plan=PlanKind.REMOTE, peer="garage", model="gemma3-270m", variant="Q4_K_M", ttft_s=0.9, tpot_s=0.009,
    total_s=2.1, up_bytes=2_900, down_bytes=600, rejected="a base model cannot chat",
)  # fmt: skip
WHY = "prefill on garage: first word in 0.74 s instead of 2.61 s, for 9.8 MB of cache over a 118 Mbit/s link"
DECISION = Decision(chosen=PREFILL, why=WHY, candidates=(PREFILL, LOCAL, REMOTE))
REDUCTION = ReductionReport(
    level=ReductionLevel.L2,
    tokens_in=1840,
    tokens_kept=796,
    dropped=(
        Dropped(source="manual.txt", tokens=912, reason="least related to the question"),
        Dropped(source="turn 1", tokens=132, reason="older than the budget"),
    ),
)
RECALLED = (Recalled(id="m-1f8c", score=0.83), Recalled(id="m-09be", score=0.61))
HANDOVER = Handover(at_token=3, from_="garage", to="local", reason="the cache is whole here")
REPORT = AnswerReport(
    plan=PlanKind.PREFILL, model=MODEL, variant="Q4_1", peer="garage", why=WHY, seed=7, reduction=REDUCTION,
    memory=MemoryReport(recalled=RECALLED, written=("m-77a0",)), handover=(HANDOVER,),
    predicted=Costs(ttft_s=0.74, tpot_s=0.018, up_bytes=2_900, down_bytes=9_800_000),
    measured=Costs(ttft_s=0.81, tpot_s=0.0174, up_bytes=2_912, down_bytes=9_760_128), decision=DECISION,
)  # fmt: skip
CLOCK = ToolCall(id="call_1", name="clock", arguments='{"zone": "UTC"}')
WORDS = (
    "Descale the pump every three months, ", "or every two where the water is hard.\n\n",
    "1. Switch it off and let it cool.\n2. Fill the tank with the ", "`5 %` citric acid mix.\n",
    "3. Run one cycle, wait, then rinse twice.\n\n", "Check the counter afterwards:\n\n```sh\n",
    "pumpctl status --since last-descale\n```\n\nYou noted ", "that yours was **last done in May**.",
)  # fmt: skip
FINISHED = Finished("stop", Usage(796, len(WORDS)), REPORT)
STEPS: tuple[Event, ...] = (
    RecalledMemories(((RECALLED[0], "The pump was descaled in May."), (RECALLED[1], "Tap water here is hard."))),
    Reduced(REDUCTION),
    Planned(DECISION, requested=False),
    ToolCalled(CLOCK, 0),
    ToolReturned(CLOCK, "2025-08-14T09:12:00Z"),
    *(Text(word) for word in WORDS[:2]),
    HandedOver(HANDOVER),
    *(Text(word) for word in WORDS[2:]),
    FINISHED,
)

Script = tuple[Event | float | Exception, ...]
"""Events to tell, seconds to wait, errors to raise."""


@dataclass
class Scripted:
    """A Backend that follows `script` and remembers what it was asked."""

    script: Script = STEPS
    pace_s: float = 0.0
    ready: tuple[bool, str] = (True, "the model is loaded")
    asked: list[tuple[ChatRequest, str]] = field(default_factory=list)
    planned: list[PlanQuery] = field(default_factory=list)
    remembered: dict[tuple[str, str], str] = field(default_factory=dict)
    """Text by user and id."""
    began: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def answer(self, request: ChatRequest, user: str) -> AsyncGenerator[Event, None]:
        self.asked.append((request, user))
        self.began.set()
        is_done = False
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    is_done = True
                    raise item
                await asyncio.sleep(item if isinstance(item, float) else self.pace_s)
                if not isinstance(item, float):
                    yield item
            is_done = True
        finally:
            if not is_done:
                self.cancelled.set()

    def models(self) -> list[ModelCard]:
        shape = Architecture(
            family="llama",
            layers=30,
            width=576,
            ffn=1536,
            heads=9,
            kv_heads=3,
            head_dim=64,
            vocab=49152,
            context_tokens=8192,
        )
        file = Variant(name="Q4_1", file="smollm2.gguf", source=QuantizedSource(kind="quantized", variant="F16"))
        return [
            ModelCard(
                id=MODEL, name="SmolLM2 135M Instruct", kind="chat", licence="Apache-2.0", source="the test",
                parameters=134_515_008, architecture=shape, variants=(file,),
            )
        ]  # fmt: skip

    def offered(self, wanted: str | None) -> ModelCard | None:
        [card] = self.models()
        return card if wanted in (None, card.id) else None

    def elsewhere(self) -> Mapping[str, str]:
        return {"served-model": "garage"}

    async def profile(self) -> Profile:
        return Profile(
            fingerprint="9d1e07c2a4b35f68",
            board="Raspberry Pi 5 Model B Rev 1.0",
            cpu=Cpu(model="Cortex-A76", arch="aarch64", cores=4, features=("asimd", "dotprod"), max_mhz=2400),
            memory=MemoryFacts(total_bytes=8 * 2**30, available_bytes=6 * 2**30),
            storage=Storage(path="/", free_bytes=20 * 2**30),
            engines=(EngineFacts(name="llama.cpp", version="0.3.36", usable=True,
                                 probe=Verdict(verdict="ok", reason="a probe model ran")),),
            rates={f"{MODEL}/Q4_1": Rates(prefill_tok_s=305.0, decode_tok_s=56.8)},
        )  # fmt: skip

    async def plan(self, query: PlanQuery) -> Decision:
        self.planned.append(query)
        return DECISION

    async def memories(self, user: str, query: str | None, limit: int, kind: str | None = None) -> list[MemoryHit]:
        found = [self._item(*key) for key in self.remembered if key[0] == user]
        if not found:
            item = MemoryItem(
                id="m-1", user=user, kind=kind or "note", text=query or "newest", source="", created_at=1.0
            )
            found = [item] * 2
        return [MemoryHit(item=item, score=0.5) for item in found if not query or query in item.text][:limit]

    async def recollect(self, user: str, id_: str) -> MemoryItem:
        return self._item(user, id_)

    def _item(self, user: str, id_: str) -> MemoryItem:
        if (user, id_) not in self.remembered:
            raise NotFoundError(f"user '{user}' has no memory '{id_}'; list shows the ids there are")
        text = self.remembered[user, id_]
        return MemoryItem(id=id_, user=user, kind="note", text=text, source="", created_at=1.0)

    async def remember(self, user: str, text: str, source: str) -> str:
        self.remembered[user, "m-2"] = text
        return "m-2"

    async def correct(self, user: str, id_: str, text: str) -> tuple[str, ...]:
        self._item(user, id_)
        self.remembered[user, id_] = text
        return ()

    async def reflect(self, user: str, most: int) -> list[str]:
        if not self.remembered:
            raise BusyError("nothing is summed up now: it is hot; try again later")
        return [id_ for owner, id_ in self.remembered if owner == user][:most]

    async def forget(self, user: str, id_: str) -> tuple[str, ...]:
        self._item(user, id_)
        del self.remembered[user, id_]
        return ()

    def peer_facts(self) -> list[PeerFacts]:
        return [
            PeerFacts("garage", "online", False, (f"{MODEL}/Q4_1",), 2, 20, 3.25, 0.004, 4e6, None),
            PeerFacts("attic", "online", True, (), 0, None, None, None, None, None),
        ]

    def is_ready(self) -> tuple[bool, str]:
        return self.ready

    def load(self) -> Load:
        return Load(running=1, waiting=3)


@dataclass
class Running:
    """A server in a thread of its own, so that blocking clients and browsers can be used on it."""

    base_url: str
    port: int
    close: Callable[[], None]


Start = Callable[[HttpConfig, float], Running]


def run_server(config: HttpConfig, backend: Scripted, drain_s: float) -> Running:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="http")
    thread.start()

    def call(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    def stop() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    log = logging.getLogger("edgeagent.test")
    try:
        server: HttpServer = call(start_http(config, backend, log, owner="owner", drain_s=drain_s))
    except EdgeAgentError:
        stop()
        raise

    def close() -> None:
        if not loop.is_closed():
            call(server.close())
            stop()

    return Running(f"http://127.0.0.1:{server.port}", server.port, close)


@pytest.fixture
def backend() -> Scripted:
    return Scripted()


@pytest.fixture
def start(backend: Scripted) -> Iterator[Start]:
    """Starts servers (`config`, `drain_s`) that end with the test."""
    started: list[Running] = []

    def begin(config: HttpConfig, drain_s: float) -> Running:
        started.append(run_server(config, backend, drain_s))
        return started[-1]

    yield begin
    for running in started:
        running.close()


@pytest.fixture
def server(start: Start) -> Running:
    return start(HttpConfig(port=0), 5.0)


@pytest.fixture
def guarded(start: Start) -> Running:
    """Listens on every address, so it needs tokens."""
    tokens = {"token-of-ada-0123456789": "ada", "token-of-bob-0123456789": "bob"}
    return start(HttpConfig(host="0.0.0.0", port=0, tokens=tokens), 5.0)


@pytest.fixture
def base_url(server: Running) -> str:
    return server.base_url


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses are made wherever the text has some: whether one pays hangs on times, which a test cannot know."""

    def propose(drafts: SplitDrafts, max_tokens: int) -> tuple[int, ...]:
        most = min(drafts._max_rows - 1, max_tokens)
        return tuple(drafts._lookup.draft(most)) if drafts._lookup and most > 0 else ()

    monkeypatch.setattr(SplitDrafts, "propose", propose)
