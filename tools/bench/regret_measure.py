"""Measures the pieces of bench `regret` on this machine, with the product's own handles and workers.

The edge's are measured while this process and its engine are held to a part of one core, the peer's on the other core,
alone and beside an answer that is being written. What is timed is what a caller sees: with the way into the worker.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

import harness
import psutil
import quota
from regret_pieces import KeptPieces, Line, Measured, Part, Pieces, Template

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.daemon import House, open_house
from edgeagent.execution.admission import USUAL
from edgeagent.execution.local import Exported, LocalModel
from edgeagent.execution.stage_sessions import CellRows, Draw, HiddenRows, StageSession, open_head
from edgeagent.execution.stages import StageFacts
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.model.beside import measure_beside
from edgeagent.model.resident import Resident
from edgeagent.model.tails import Tails
from edgeagent.parts import known_profile, selection_machine, spawn_llama
from edgeagent.settings import Settings, load_settings
from tools import slow_edge

PERIOD_S = 0.02
CHUNK = 64
STEPS, STEP_MEANS = 10, 3
STEP_PASTS = (64, 896)
STAGE_CHUNKS = 5
SHARE_SIZES = (8, 16, 32, 48)
HOPS = 60
BESIDE_TOKENS = 400
TAILS_BYTES = 2**31
STORY = "Tell me a long story, with many details, about the sea, an old harbour and the people who lived there. "


def settings_of_bench() -> Settings:
    """One thread, nothing kept, nothing drafted, nothing governed: what is timed is evaluating."""
    env = harness.state_env() | harness.UNGOVERNED | OWN
    return load_settings(environment=env)


OWN = {
    "EDGEAGENT__ENGINE__THREADS": "1",
    "EDGEAGENT__ENGINE__SPECULATION": "off",
    "EDGEAGENT__ENGINE__KEPT_MEMORY_BYTES": "0",
    "EDGEAGENT__ENGINE__KEPT_DISK_BYTES": "0",
    "EDGEAGENT__ENGINE__IDLE_UNLOAD_S": "0",
    "EDGEAGENT__MEMORY__ENABLED": "false",
}


async def measure(
    settings: Settings, shares: Sequence[float], most_tokens: int, address: str, kept: KeptPieces
) -> Measured:
    """All pieces. `address`: a broker, for what a hop takes."""
    async with open_house(settings, role="bench") as house, house.pool.lease(harness.CHAT_MODEL) as resident:
        await resident.whole.facts()
        repacked = selection_machine(settings, known_profile(settings)).repacked
        tails = Tails(house.store, spawn_llama, TAILS_BYTES, repacked)
        try:
            return await _Measuring(house, resident, tails, most_tokens).all(shares, address, kept)
        finally:
            await tails.close()


class _Measuring:
    def __init__(self, house: House, resident: Resident, tails: Tails, most_tokens: int) -> None:
        self._house, self._resident, self._tails = house, resident, tails
        self._local = resident.whole
        self._num_chunks = most_tokens // CHUNK
        self._seed = 0
        self._rows: dict[int, list[bytes]] = {}
        self._stage_facts: dict[int, StageFacts] = {}

    async def all(self, shares: Sequence[float], address: str, kept: KeptPieces) -> Measured:
        facts, cuts = await self._local.facts(), await self._tails.cuts(self._resident)
        self._text = tuple((await self._local.encode([{"role": "user", "content": STORY * 80}]))[:1400])
        cores = harness.cores()
        with _pinned(cores[0]):
            edges = {share: await kept.get(("edge", share), partial(self._edge, share, cuts)) for share in shares}
        with _pinned(cores[-1]):
            peers = {num: await kept.get(("peer", num), partial(self._peer, num, cuts)) for num in (0, 1)}
            for k in cuts:
                async with self._tails.lease(self._resident, k) as stage:
                    self._stage_facts[k] = await stage.facts()
        hop_s = await _hop_s(address)
        here = self._resident
        template = Template(here.card, here.variant, self._local.settings, here.memory_bytes)
        return Measured(template, facts, self._stage_facts, cuts, edges, peers, hop_s)

    async def _edge(self, share: float, cuts: Sequence[int]) -> Pieces:
        assert self._local.pid is not None
        with held(self._local.pid, share):
            before = self._resident.rates
            await self._house.pool.measure(self._resident)
            rates, self._resident.rates = self._resident.rates, before
            slower = before.prefill_tok_s / rates.prefill_tok_s, before.decode_tok_s / rates.decode_tok_s
            heads: dict[int, Part] = {}
            opened: list[float] = []
            for k in cuts:
                heads[k] = await self._head(k, opened)
            here = self._resident.position_s
            pieces = Pieces(
                whole=await self._whole(self._num_chunks),
                parts=heads,
                shares=await self._shares(),
                open_s=min(opened),
                splice_s=await self._splice(),
                rates=rates,
                position_s=(here[0] * slower[0], here[1] * slower[1]),
            )
        harness.progress(f"edge with {share} of a core: {pieces.whole}, {rates.prefill_tok_s:.0f} tok/s")
        return pieces

    async def _peer(self, num_beside: int, cuts: Sequence[int]) -> Pieces:
        before = self._resident.rates
        await self._house.pool.measure(self._resident)  # as it was when the peer began: beside nobody
        rates, self._resident.rates = self._resident.rates, before
        beside = await measure_beside(self._resident)
        for k in cuts:
            async with self._tails.lease(self._resident, k):
                if k not in self._rows:
                    await self._head(k, [])
        tails: dict[int, Part] = {}
        opened: list[float] = []
        async with _answering(self._local, num_beside):
            for k in cuts:
                tails[k] = await self._tail(k, opened)
            pieces = Pieces(
                whole=await self._whole(self._num_chunks),
                parts=tails,
                shares=await self._shares(),
                open_s=min(opened),
                rates=rates,
                position_s=self._resident.position_s,
                beside=beside,
            )
        harness.progress(f"peer beside {num_beside}: {pieces.whole}, {rates.prefill_tok_s:.0f} tok/s alone")
        return pieces

    def _prompt(self, num_tokens: int) -> tuple[int, ...]:
        """No two begin alike, so nothing is cached."""
        self._seed += 1
        return (1000 + self._seed, *self._text[: num_tokens - 1])

    async def _whole(self, num_chunks: int) -> Part:
        prompt = self._prompt(num_chunks * CHUNK)
        chunks: list[tuple[float, float]] = []
        began, past = time.perf_counter(), 0
        async with contextlib.aclosing(self._local.prefill(prompt)) as events:
            async for event in events:
                now = time.perf_counter()
                if event.tokens - past >= CHUNK // 2:
                    chunks.append((past, (now - began) * CHUNK / (event.tokens - past)))
                    began, past = now, event.tokens
        steps = [(past, await self._step_s(prompt[: min(past, len(prompt))])) for past in STEP_PASTS]
        return Part(Line.through(_without_strays(chunks)), Line.through(steps))

    async def _step_s(self, prompt: tuple[int, ...]) -> float:
        """The median of some means: a quota makes steps come in bursts, and something else may have run in one."""
        return sorted([await self._mean_step_s(prompt) for _ in range(STEP_MEANS)])[STEP_MEANS // 2]

    async def _mean_step_s(self, prompt: tuple[int, ...]) -> float:
        found: list[float] = []
        while len(found) < STEPS:
            self._seed += 1
            sampling = Sampling(temperature=1.0, seed=self._seed)
            generation = Generation(f"steps-{self._seed}", self._local.settings.variant_sha256, prompt, sampling, 12)
            last: float | None = None
            async for event in self._local.generate(generation):
                if isinstance(event, TokenStep):
                    found += [] if last is None else [time.perf_counter() - last]
                    last = time.perf_counter()
        return sum(found) / len(found)

    async def _shares(self) -> tuple[tuple[int, float], ...]:
        """Of a chunk's time, what smaller spans take."""
        whole_s = await self._span_s(CHUNK)
        return tuple([(size, min(1.0, await self._span_s(size) / whole_s)) for size in SHARE_SIZES])

    async def _span_s(self, size: int) -> float:
        took: list[float] = []
        for _ in range(3):
            prompt = self._prompt(size)
            began = time.perf_counter()
            async with contextlib.aclosing(self._local.prefill(prompt)) as events:
                async for _event in events:
                    pass
            took.append(time.perf_counter() - began)
        return sorted(took)[1]

    async def _head(self, k: int, opened: list[float]) -> Part:
        began = time.perf_counter()
        async with open_head(self._local, k, 2048, "f32") as head:
            opened.append(time.perf_counter() - began)
            tokens, rows = self._text[: STAGE_CHUNKS * CHUNK], self._rows.setdefault(k, [])
            rows.clear()
            chunks, began = [], time.perf_counter()
            async for event in head.run_tokens(tokens, 0, [CHUNK] * STAGE_CHUNKS):
                if isinstance(event, HiddenRows):
                    now = time.perf_counter()
                    chunks.append((event.first, now - began))
                    rows.append(event.data)
                    began = now
            steps = [await _step(head, tokens[0], past) for past in _stage_pasts() for _ in range(STEPS)]
        return Part(Line.through(_without_strays(chunks)), Line.through(steps))

    async def _tail(self, k: int, opened: list[float]) -> Part:
        rows = self._rows[k]
        async with self._tails.lease(self._resident, k) as stage:
            began = time.perf_counter()
            async with stage.session(2048, "f32", sampling=Sampling()) as tail:
                opened.append(time.perf_counter() - began)
                chunks = []
                for index, block in enumerate(rows):
                    began = time.perf_counter()
                    async for event in tail.run_hidden(block, index * CHUNK, [CHUNK], cells=True):
                        if isinstance(event, CellRows):
                            chunks.append((index * CHUNK, time.perf_counter() - began))  # noqa: PERF401  (timed)
                one = rows[0][: len(rows[0]) // CHUNK]
                steps = []
                for past in _stage_pasts():
                    for _ in range(STEPS):
                        began = time.perf_counter()
                        async for _event in tail.run_hidden(one, past, [1], draw=Draw(4000)):
                            pass
                        steps.append((past, time.perf_counter() - began))
        return Part(Line.through(_without_strays(chunks)), Line.through(steps))

    async def _splice(self) -> Line:
        """Behind a chunk that is here."""
        num_tokens = 8 * CHUNK
        prompt = self._prompt(num_tokens)
        generation = Generation("cells", self._local.settings.variant_sha256, prompt, Sampling(), 1)
        data = b""
        async for event in self._local.generate(generation, USUAL, export_kv=True):
            data = event.data if isinstance(event, Exported) else data
        cell = len(data) // num_tokens
        points: list[tuple[float, float]] = []
        for first in (1, 6):
            async with contextlib.aclosing(self._local.prefill(self._prompt(CHUNK))) as events:
                async for _event in events:
                    pass
            async with contextlib.aclosing(self._local.prefill(prompt[: first * CHUNK])) as events:
                async for _event in events:
                    pass
            blocks = [data[i * CHUNK * cell : (i + 1) * CHUNK * cell] for i in range(first, 8)]
            began = time.perf_counter()
            await self._local.splice(prompt, first, blocks)
            points.append((sum(map(len, blocks)), time.perf_counter() - began))
        return Line.through(points)


def _stage_pasts() -> tuple[int, int]:
    """The longer first: from there one may only go back."""
    return STAGE_CHUNKS * CHUNK, CHUNK


def _without_strays(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without what took more than twice the median: something else ran."""
    median = sorted(seconds for _, seconds in points)[len(points) // 2]
    return [point for point in points if point[1] <= 2 * median]


async def _step(head: StageSession, token: int, past: int) -> tuple[float, float]:
    began = time.perf_counter()
    async for _event in head.run_tokens([token], past, [1]):
        pass
    return past, time.perf_counter() - began


@contextlib.asynccontextmanager
async def _answering(local: LocalModel, num_beside: int) -> AsyncIterator[None]:
    """So many long answers are written beside, one after the other each, and have begun."""
    begun = [asyncio.Event() for _ in range(num_beside)]

    async def answer(number: int) -> None:
        for turn in range(10_000):
            prompt = await local.encode([{"role": "user", "content": f"{turn}, {number}. {STORY}"}])
            sampling = Sampling(temperature=0.8, seed=turn)
            generation = Generation(
                f"beside-{number}-{turn}", local.settings.variant_sha256, prompt, sampling, BESIDE_TOKENS
            )
            async for event in local.generate(generation):
                if isinstance(event, TokenStep):
                    begun[number].set()

    tasks = [asyncio.create_task(answer(number), name=f"beside-{number}") for number in range(num_beside)]
    try:
        for each in begun:
            await each.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """This process and its workers on one core while inside."""
    me = psutil.Process()
    pids, before = [me.pid, *(child.pid for child in me.children(recursive=True))], set(harness.cores())
    pin(pids, core)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                _place(pid, before)


def pin(pids: Sequence[int], core: int) -> None:
    """All threads of these to one core."""
    for pid in pids:
        _place(pid, {core})


def _place(pid: int, cores: set[int]) -> None:
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cores)


def can_hold() -> str:
    """How an edge is held to its share here."""
    if quota.is_available():
        return f"a control group for this process and its engine, in periods of {PERIOD_S:g} s"
    return "stopping and continuing the engine in turns: no control group may be made"


@contextlib.contextmanager
def held(pid: int, share: float) -> Iterator[None]:
    """This process and the engine `pid` have that share of a core; without control groups the engine alone."""
    if share >= 1:
        yield
    elif quota.is_available():
        with quota.limited([os.getpid(), pid], share, PERIOD_S):
            yield
    else:
        with _stopped_in_turns(psutil.Process(pid), share):
            yield


@contextlib.contextmanager
def _stopped_in_turns(process: psutil.Process, share: float) -> Iterator[None]:
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            slow_edge.send([process], signal.SIGSTOP)
            time.sleep(slow_edge.PERIOD_S * (1 - share))
            slow_edge.send([process], signal.SIGCONT)
            time.sleep(slow_edge.PERIOD_S * share)

    thread = threading.Thread(target=hold, name="slow-edge", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _hop_s(url: str) -> float:
    """Half of what a small message takes there and back between two clients of the broker: the median."""
    address = parse_address(url, "", "", "", is_enrolled=False)
    ends = [await MqttTransport.connect(address, f"bench-hop-{i}") for i in range(2)]
    try:
        here, there = (end.subscribe(f"bench/hop/{i}") for i, end in enumerate(ends))
        await asyncio.sleep(0.3)
        took: list[float] = []
        for _ in range(HOPS):
            began = time.perf_counter()
            ends[0].publish("bench/hop/1", b"x" * 200)
            await there.get()
            ends[1].publish("bench/hop/0", b"x" * 200)
            await here.get()
            took.append(time.perf_counter() - began)
        return sorted(took)[HOPS // 2] / 2
    finally:
        for end in ends:
            await end.close()
