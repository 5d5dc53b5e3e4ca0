"""Split plans between a device and a peer: the words of one machine alone, whatever is lost. Real engines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.errors import PeerError, PeerLostError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.core.plan import Handover
from edgeagent.core.stages import Cut
from edgeagent.execution.executors import Executor, LocalExecutor, PeerModel, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.llama.stage_jobs import MAX_SESSIONS
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.splitting import HeadOfWhole, SplitDecodeExecutor, SplitPrefillExecutor
from edgeagent.execution.stage_sessions import open_head
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.memory import MemoryBroker, MemoryTransport
from edgeagent.model.slicing import Sliced, slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.topics import Topics
from tests.machine import REPACKS

K, LAYERS, CHUNK = 7, 30, 64
TOPICS = Topics("test")
TEXT = "The ferry leaves the small harbour at nine and comes back before the storm. " * 8
NUM_TOKENS = 10


@dataclass
class Ends:
    """A device with the whole model, and a peer that runs the layers from K on."""

    local: LocalModel
    tail: StageModel
    target: PeerModel
    broker: MemoryBroker
    peers: Peers
    peer_side: MemoryTransport
    prompt: tuple[int, ...] = ()

    def generation(self, temperature: float) -> Generation:
        sampling = Sampling(temperature=temperature, seed=5)
        return Generation("g", self.target.variant_sha256, self.prompt, sampling, NUM_TOKENS)

    def executor(self, plan: str, traffic: Traffic) -> Executor:
        head = HeadOfWhole(self.local, self.target.model, K)
        kind = SplitPrefillExecutor if plan == "split-prefill" else SplitDecodeExecutor
        return kind(head, self.peers, self.target, traffic)

    async def alone(self, temperature: float) -> list[int]:
        return await tokens(complete(self.generation(temperature), [LocalExecutor(self.local, Traffic())]))


async def tokens(steps: AsyncIterator[TokenStep | Handover]) -> list[int]:
    return [step.token async for step in steps if isinstance(step, TokenStep)]


Scene = Callable[[Ends], Awaitable[None]]


@pytest.fixture(scope="module")
def sliced(embedded_store: ModelStore, smollm2: StoredVariant) -> Sliced:
    making = slice_variant(embedded_store, smollm2.card.id, K, LAYERS, spawn_llama, base=smollm2.variant.name)
    return asyncio.run(making)


@pytest.fixture
def play(smollm2: StoredVariant, sliced: Sliced) -> Callable[[Scene], None]:
    def settings(path: str, sha256: str) -> LoadSettings:
        return LoadSettings(
            path,
            sha256,
            512,
            "q8_0",
            flash_attention=True,
            threads=1,
            extra_buffers=REPACKS,
            chunk_tokens=CHUNK,
        )

    async def body(scene: Scene) -> None:
        local = LocalModel(settings(str(smollm2.path), smollm2.sha256))
        cut, source = stage_of(sliced.stored)
        assert cut == Cut.of(K, LAYERS, LAYERS)
        tail = StageModel(settings(str(sliced.stored.path), sliced.stored.sha256), cut, source)
        model = OfferedModel(
            model=smollm2.card.id, variant=smollm2.variant.name, variant_sha256=smollm2.sha256, exact_key="",
            prefill_tok_s=1, decode_tok_s=1, context_tokens=512, kv_bytes_per_token=0, cuts=(K,),
        )  # fmt: skip
        broker = MemoryBroker()
        peer_side = broker.connect()
        offer = Offer(model, lambda: contextlib.nullcontext(local), lambda _k: contextlib.nullcontext(tail))
        service = PeerService("garage", "test", peer_side, TOPICS, [offer])
        peers = Peers(broker.connect(), TOPICS, "kitchen")
        target = PeerModel("garage", model.model, smollm2.sha256, "")
        ends = Ends(local, tail, target, broker, peers, peer_side)
        try:
            async with background(service.run(), "peer"), background(peers.run(), "device"):
                await asyncio.sleep(0.01)
                ends.prompt = await local.encode([{"role": "user", "content": TEXT}])
                assert len(ends.prompt) > 2 * CHUNK
                await scene(ends)
        finally:
            await local.close()
            await tail.close()

    return lambda scene: asyncio.run(body(scene))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("plan", ["split-prefill", "split-decode"])
def test_split_plan_gives_the_words_of_the_whole_model(
    play: Callable[[Scene], None], plan: str, temperature: float
) -> None:
    async def scene(ends: Ends) -> None:
        traffic = Traffic()
        got = await tokens(complete(ends.generation(temperature), [ends.executor(plan, traffic)]))
        assert traffic.notes == []
        assert traffic.kv_tokens == (len(ends.prompt) if plan == "split-prefill" else 0)
        assert traffic.reused_tokens == 0
        assert traffic.up_bytes > len(ends.prompt) * 576 * 4
        assert got == await ends.alone(temperature)

    play(scene)


def test_guesses_save_round_trips_and_change_no_word(play: Callable[[Scene], None]) -> None:
    """The answer to a text that repeats itself repeats it; the peer answers late, as over a long link."""

    async def scene(ends: Ends) -> None:
        ends.local.settings = replace(ends.local.settings, invariance=Invariance(draft_batch=8, rewind=True))
        ends.prompt = await ends.local.encode(
            [{"role": "user", "content": "Say it again: " + "one two three four " * 30}]
        )
        deliver, loop = ends.broker.deliver, asyncio.get_running_loop()

        def late(topic: str, payload: bytes) -> None:
            loop.call_later(0.02, deliver, topic, payload)

        ends.broker.deliver = late  # type: ignore[method-assign]
        traffic = Traffic()
        wanted = replace(ends.generation(0.0), max_tokens=48)
        got = await tokens(complete(wanted, [ends.executor("split-decode", traffic)]))
        assert traffic.accepted_tokens > 8
        assert got == await tokens(complete(wanted, [LocalExecutor(ends.local, Traffic())]))

    play(scene)


def test_no_text_and_no_token_ids_go_up(play: Callable[[Scene], None]) -> None:
    passed: list[bytes] = []

    async def scene(ends: Ends) -> None:
        deliver = ends.broker.deliver

        def tapped(topic: str, payload: bytes) -> None:
            if "/peers/garage/in/" in topic:
                passed.append(payload)
            deliver(topic, payload)

        ends.broker.deliver = tapped  # type: ignore[method-assign]
        await tokens(complete(ends.generation(0.0), [ends.executor("split-prefill", Traffic())]))

    play(scene)
    assert passed
    assert not any(b"ferry" in payload for payload in passed)
    assert not any(b'"prompt_form":"tokens"' in payload and b'"prompt_bytes":0' not in payload for payload in passed)


@pytest.mark.parametrize("plan", ["split-prefill", "split-decode"])
@pytest.mark.parametrize("after", [1, 4])
def test_peer_that_is_lost_on_the_way_costs_no_word(play: Callable[[Scene], None], plan: str, after: int) -> None:
    """After so many frames of the peer's nothing of it comes any more."""

    async def scene(ends: Ends) -> None:
        deliver, seen = ends.broker.deliver, 0

        def cut_off(topic: str, payload: bytes) -> None:
            nonlocal seen
            if "/devices/kitchen/in/" in topic and b"keepalive" not in payload:
                seen += 1
            if seen <= after or "/devices/kitchen/in/" not in topic:
                deliver(topic, payload)

        traffic = Traffic()
        ends.broker.deliver = cut_off  # type: ignore[method-assign]
        chain = [ends.executor(plan, traffic), LocalExecutor(ends.local, traffic)]
        got = await tokens(complete(ends.generation(0.8), chain))
        assert seen > after
        assert got == await ends.alone(0.8)

    play(scene)


@pytest.mark.parametrize("plan", ["split-prefill", "split-decode"])
def test_head_that_has_no_room_here_costs_no_word(play: Callable[[Scene], None], plan: str) -> None:
    async def scene(ends: Ends) -> None:
        async with contextlib.AsyncExitStack() as heads:
            for _ in range(MAX_SESSIONS):
                await heads.enter_async_context(open_head(ends.local, K, 1, "f32"))
            traffic = Traffic()
            chain = [ends.executor(plan, traffic), LocalExecutor(ends.local, traffic)]
            steps = [step async for step in complete(ends.generation(0.8), chain)]
        told = [*traffic.notes, *(step.reason for step in steps if isinstance(step, Handover))]
        assert "cannot be opened" in "".join(told)
        got = [step.token for step in steps if isinstance(step, TokenStep)]
        assert got == await ends.alone(0.8)

    play(scene)


def test_head_that_does_not_fit_is_refused_with_the_difference(play: Callable[[Scene], None]) -> None:
    async def scene(ends: Ends) -> None:
        ends.tail.settings = LoadSettings(
            ends.tail.settings.path, ends.tail.settings.variant_sha256, 512, "f16", flash_attention=True, threads=1,
            extra_buffers=REPACKS, chunk_tokens=CHUNK,
        )  # fmt: skip
        with pytest.raises(PeerError, match=r"kv_type|kv_planes"):
            await tokens(complete(ends.generation(0.0), [ends.executor("split-decode", Traffic())]))

    play(scene)


def test_split_of_a_model_that_is_not_offered_is_refused(play: Callable[[Scene], None]) -> None:
    async def scene(ends: Ends) -> None:
        head = HeadOfWhole(ends.local, ends.target.model, K + 1)
        executor = SplitDecodeExecutor(head, ends.peers, ends.target, Traffic())
        with pytest.raises(PeerError, match="runs no layers"):
            await tokens(complete(ends.generation(0.0), [executor]))

    play(scene)


def test_lost_connection_is_told(play: Callable[[Scene], None]) -> None:
    async def scene(ends: Ends) -> None:
        ends.peer_side.cut()
        with pytest.raises(PeerLostError):
            await tokens(complete(ends.generation(0.0), [ends.executor("split-decode", Traffic())]))

    play(scene)
