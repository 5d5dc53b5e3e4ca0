"""One case of bench `regret` in simulated time: a device with the product's planner and executors, a link, a peer.

Everything between the clock and the engine workers is the product's own code: statuses, link measurement, planner,
executors, sessions, windows, the peer's jobs. Of a case all candidates are run, each in a world of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from regret_engine import BESIDE, ReplayedLocal, ReplayedTail, interpolated
from regret_link import LinkedTransport, run_virtually
from regret_pieces import Measured, Pieces

from edgeagent.agent.situation import Surroundings
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.generation import Generation, Sampling
from edgeagent.core.plan import Candidate, PlanKind, ReductionLevel
from edgeagent.execution.executors import Executor, LocalExecutor, PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.heads import HeadOfWhole
from edgeagent.execution.local import LocalModel
from edgeagent.execution.meeting import PrefillExecutor
from edgeagent.execution.peers import Peers
from edgeagent.execution.split_decode import SplitDecodeExecutor
from edgeagent.execution.splitting import SplitPrefillExecutor
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.model.resident import Resident
from edgeagent.resource.options import Ask, PromptOption, Situation
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.topics import Topics

PEER = "garage"
FOREVER_TOKENS = 10_000
ANNOUNCED_S = 6.0
"""Until a peer has said anew how much it has to do."""


@dataclass(frozen=True, slots=True)
class Case:
    """`share`: of a core, for the edge. `num_beside`: answers that the peer writes for another device meanwhile."""

    share: float
    mbit_s: float
    rtt_s: float
    prompt_tokens: int
    output_tokens: int
    num_beside: int = 0

    @property
    def ask(self) -> Ask:
        return Ask(
            prompts=[PromptOption(ReductionLevel.L0, self.prompt_tokens)],
            max_tokens=self.output_tokens,
            expected_tokens=self.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Ran:
    """From the plan on. None: not before the limit."""

    ttft_s: float | None
    total_s: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Made anew for each run: nothing is learned from the one before."""

    measured: Measured

    def situation(self, case: Case) -> Situation:
        """What the planner is told in the first request after the start."""
        situation: Situation = run_virtually(self._situation(case))
        return situation

    def run(self, case: Case, candidate: Candidate, limit_s: float | None = None) -> Ran:
        ran: Ran = run_virtually(self._run(case, candidate, limit_s))
        return ran

    async def _situation(self, case: Case) -> Situation:
        async with self._device(case) as (peers, resident):
            return await _surroundings(peers).situation(resident)

    async def _run(self, case: Case, candidate: Candidate, limit_s: float | None) -> Ran:
        async with self._device(case) as (peers, resident):
            await _surroundings(peers).situation(resident)  # which measures the link, as for every plan
            traffic = Traffic()
            target = PeerModel(PEER, candidate.model, resident.variant.sha256 or "", self.measured.facts.exact_key)
            executor = _executor(candidate, peers, target, resident.whole, traffic)
            prompt = tuple(100 + i % 900 for i in range(case.prompt_tokens))
            sha256 = resident.variant.sha256 or ""
            generation = Generation("case", sha256, prompt, Sampling(), case.output_tokens)
            times: list[float] = []
            loop = asyncio.get_running_loop()
            began = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s), contextlib.aclosing(executor.extend(generation)) as steps:
                    async for _step in steps:
                        times.append(loop.time() - began)  # noqa: PERF401  (what came before a limit counts)
            is_whole = len(times) == case.output_tokens
            return Ran(times[0] if times else None, times[-1] if is_whole else None, tuple(traffic.notes))

    @contextlib.asynccontextmanager
    async def _device(self, case: Case) -> AsyncIterator[tuple[Peers, Resident]]:
        broker, topics = MemoryBroker(), Topics("edgeagent/v1")
        edge, there = self.measured.edges[case.share], self.measured.peers[case.num_beside]
        resident = self._resident(edge)
        offer = self._offer(there)
        transport = LinkedTransport(broker, case.mbit_s, case.rtt_s, self.measured.hop_s)
        service = PeerService(PEER, "1", broker.connect(), topics, [offer])
        async with background(service.run(), "peer"), contextlib.AsyncExitStack() as stack:
            for number in range(case.num_beside):
                await stack.enter_async_context(_other_device(broker, topics, offer, f"other-{number}"))
            await asyncio.sleep(ANNOUNCED_S)
            peers = Peers(transport, topics, "edge")
            await stack.enter_async_context(background(peers.run(), "peers"))
            await peers.wait_for_peer(60)
            yield peers, resident

    def _resident(self, pieces: Pieces) -> Resident:
        template, layers = self.measured.template, self.measured.facts.layers
        whole = replace(pieces, parts=interpolated(pieces.parts, layers))
        return Resident(
            template.card,
            template.variant,
            "measured",
            pieces.rates,
            template.memory_bytes,
            ReplayedLocal(template.settings, self.measured.facts, whole),
            0.0,
            position_s=pieces.position_s,
        )

    def _offer(self, pieces: Pieces) -> Offer:
        measured, template, rates = self.measured, self.measured.template, pieces.rates
        settings, variant = template.settings, template.variant
        engine = ReplayedLocal(settings, measured.facts, pieces)
        assert variant.sha256 is not None
        model = OfferedModel(
            model=template.card.id,
            variant=variant.name,
            variant_sha256=variant.sha256,
            exact_key=measured.facts.exact_key,
            prefill_tok_s=rates.prefill_tok_s,
            decode_tok_s=rates.decode_tok_s,
            context_tokens=measured.facts.context_tokens,
            kv_bytes_per_token=measured.facts.kv_bytes_per_token,
            cuts=measured.cuts,
            slots=settings.sequences,
            beside=pieces.beside,
        )

        @contextlib.asynccontextmanager
        async def lease() -> AsyncIterator[ReplayedLocal]:
            yield engine

        @contextlib.asynccontextmanager
        async def tail(k: int) -> AsyncIterator[StageModel]:
            yield ReplayedTail(settings, measured.facts, measured.stage_facts[k], pieces, k)

        return Offer(model, lease, tail)


def _surroundings(peers: Peers) -> Surroundings:
    return Surroundings(PolicyConfig(), ModelsConfig(), peers)


@contextlib.asynccontextmanager
async def _other_device(broker: MemoryBroker, topics: Topics, offer: Offer, name: str) -> AsyncIterator[None]:
    """Has an answer written all the time, without a link between."""
    peers = Peers(broker.connect(), topics, name)
    sha256 = offer.model.variant_sha256 or ""
    target = PeerModel(PEER, offer.model.model, sha256, offer.model.exact_key)
    generation = Generation(name, sha256, BESIDE, Sampling(), FOREVER_TOKENS)

    async def ask() -> None:
        async for _step in RemoteExecutor(peers, target, Traffic()).extend(generation):
            pass

    async with background(peers.run(), f"{name}-peers"), background(ask(), f"{name}-asks"):
        await asyncio.sleep(0.1)
        yield


def _executor(candidate: Candidate, peers: Peers, target: PeerModel, local: LocalModel, traffic: Traffic) -> Executor:
    """As `agent.running` picks the first of its chain."""
    if candidate.plan is PlanKind.LOCAL:
        return LocalExecutor(local, traffic)
    if candidate.plan is PlanKind.REMOTE:
        return RemoteExecutor(peers, target, traffic)
    if candidate.plan is PlanKind.PREFILL:
        return PrefillExecutor(local, peers, target, traffic)
    assert candidate.k is not None
    head = HeadOfWhole(local, candidate.model, candidate.k)
    if candidate.plan is PlanKind.SPLIT_PREFILL:
        return SplitPrefillExecutor(head, peers, target, traffic)
    return SplitDecodeExecutor(head, peers, target, traffic)
