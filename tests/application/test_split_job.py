"""Split plans between a device and a peer: the words of one machine alone, whatever is lost. Real engines."""

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

import pytest

from edgeagent.application import split_job
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.application.split_job import SplitJob
from edgeagent.broker import background
from edgeagent.core.errors import PeerError, PeerLostError, WireError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.core.plan import Handover
from edgeagent.core.stages import Cut
from edgeagent.execution.executors import Executor, LocalExecutor, PeerModel, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.heads import HeadOfFile, HeadOfWhole, Output
from edgeagent.execution.llama.stage_jobs import MAX_SESSIONS
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import Session
from edgeagent.execution.split_decode import SplitDecodeExecutor
from edgeagent.execution.splitting import SplitPrefillExecutor
from edgeagent.execution.stage_sessions import StageSession, open_head
from edgeagent.execution.stage_trial import BATCHES, try_behind, try_head
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.memory import MemoryBroker, MemoryTransport
from edgeagent.model.slicing import Sliced, padding_of, slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.wire.frames import HEADER_BYTES
from edgeagent.wire.messages import LEASE_S, Done, Message, OfferedModel, Open, Step, Token, decode_message
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


@pytest.mark.usefixtures("eager")
def test_guesses_save_round_trips_and_change_no_word(play: Callable[[Scene], None]) -> None:
    """The answer to a text that repeats itself repeats it; the peer answers late, as over a long link."""

    async def scene(ends: Ends) -> None:
        for model in (ends.local, ends.tail):
            model.settings = replace(model.settings, invariance=Invariance(draft_batch=8, rewind=True))
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


@pytest.fixture(scope="module")
def parts(embedded_store: ModelStore, smollm2: StoredVariant) -> list[StoredVariant]:
    """A head, and the output head."""
    cuts, name = ((0, K), (LAYERS, LAYERS)), smollm2.variant.name
    return [
        asyncio.run(slice_variant(embedded_store, smollm2.card.id, *cut, spawn_llama, base=name)).stored for cut in cuts
    ]


def stage_for(stored: StoredVariant, like: StageModel) -> StageModel:
    settings = replace(like.settings, path=str(stored.path), variant_sha256=stored.sha256)
    cut, source = stage_of(stored)
    return StageModel(settings, cut, source, padding_of(stored.path) if cut.is_head else None)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("draws_here", [False, True], ids=["peer-draws", "draws-here"])
def test_head_alone_gives_the_words_of_the_whole_model(
    play: Callable[[Scene], None], parts: list[StoredVariant], draws_here: bool
) -> None:
    """Drawn and greedy, with guesses. Where this machine draws, no token crosses, and no guess."""

    async def scene(ends: Ends) -> None:
        ends.tail.settings = replace(ends.tail.settings, invariance=Invariance(draft_batch=8, rewind=True))
        ends.prompt = await ends.local.encode([{"role": "user", "content": "Say it again: " + "one two three " * 30}])
        stage, output = (stage_for(stored, ends.tail) for stored in parts)
        messages: list[Message] = []
        deliver = ends.broker.deliver

        def tapped(topic: str, payload: bytes) -> None:
            with contextlib.suppress(WireError):
                messages.append(decode_message(payload[HEADER_BYTES:]))
            deliver(topic, payload)

        ends.broker.deliver = tapped  # type: ignore[method-assign]
        try:
            rows = (await try_head(stage)).batch_rows
            assert rows in BATCHES
            assert await try_behind(ends.tail, ends.local) in BATCHES
            for temperature in (0.0, 0.8):
                wanted, traffic = replace(ends.generation(temperature), max_tokens=16), Traffic()
                head = HeadOfFile(stage, ends.target.model, rows)
                own = Output(output, rows) if draws_here else None
                executor = SplitDecodeExecutor(head, ends.peers, ends.target, traffic, own)
                got = await tokens(complete(wanted, [executor]))
                assert got == await tokens(complete(wanted, [LocalExecutor(ends.local, Traffic())]))
        finally:
            await stage.close()
            await output.close()
        steps = [each for each in messages if isinstance(each, Step)]
        assert any(step.guesses for step in steps)
        assert any(isinstance(each, Token) for each in messages) is not draws_here
        assert any(any(step.guesses) for step in steps) is not draws_here
        opened = [each for each in messages if isinstance(each, Open)]
        assert all(each.sampling == Sampling() for each in opened) is draws_here

    play(scene)


@pytest.mark.usefixtures("eager")
def test_nothing_is_guessed_with_a_head_that_cannot_drop_what_was_wrong(
    play: Callable[[Scene], None], parts: list[StoredVariant]
) -> None:
    async def scene(ends: Ends) -> None:
        ends.tail.settings = replace(ends.tail.settings, invariance=Invariance(draft_batch=8, rewind=True))
        ends.prompt = await ends.local.encode([{"role": "user", "content": "Say it again: " + "one two three " * 30}])
        stage, traffic = stage_for(parts[0], ends.tail), Traffic()
        try:
            head = HeadOfFile(stage, ends.target.model, batch_rows=0)
            executor = SplitDecodeExecutor(head, ends.peers, ends.target, traffic)
            assert await tokens(complete(ends.generation(0.0), [executor])) == await ends.alone(0.0)
        finally:
            await stage.close()
        assert traffic.drafted_tokens == 0

    play(scene)


def test_hidden_states_that_come_back_rounded_are_drawn_from(
    play: Callable[[Scene], None], parts: list[StoredVariant]
) -> None:
    async def scene(ends: Ends) -> None:
        stage, output = (stage_for(stored, ends.tail) for stored in parts)
        try:
            head = HeadOfFile(stage, ends.target.model, hidden="int8")
            executor = SplitDecodeExecutor(head, ends.peers, ends.target, Traffic(), Output(output))
            got = await tokens(complete(ends.generation(0.0), [executor]))
            alone = await ends.alone(0.0)
            assert got[0] == alone[0]
            assert len(got) == len(alone)
        finally:
            await stage.close()
            await output.close()

    play(scene)


@pytest.mark.parametrize("draws_here", [False, True], ids=["peer-draws", "draws-here"])
def test_peer_that_ends_an_answer_too_early_has_failed(
    play: Callable[[Scene], None],
    parts: list[StoredVariant],
    draws_here: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ended(job: SplitJob, sequence: StageSession) -> None:
        del sequence
        job._session.send(Done(reason="length"))
        await asyncio.sleep(LEASE_S / 2)

    monkeypatch.setattr(SplitJob, "_answer", ended)

    async def scene(ends: Ends) -> None:
        output = stage_for(parts[1], ends.tail) if draws_here else None
        head = HeadOfWhole(ends.local, ends.target.model, K)
        executor = SplitDecodeExecutor(head, ends.peers, ends.target, Traffic(), Output(output) if output else None)
        try:
            with pytest.raises(PeerError, match="before its limit"):
                await tokens(complete(ends.generation(0.0), [executor]))
        finally:
            if output:
                await output.close()

    play(scene)


def test_state_that_no_model_has_is_the_peers_fault(
    play: Callable[[Scene], None], parts: list[StoredVariant], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Session.send_blocks

    def spoiled(session: Session, blocks: Iterable[tuple[int, bytes]], *, bulk: bool) -> None:
        if session._split is not None:  # the peer's end
            blocks = [(index, struct.pack("<f", math.nan) + data[4:]) for index, data in blocks]
        send(session, blocks, bulk=bulk)

    monkeypatch.setattr(Session, "send_blocks", spoiled)

    async def scene(ends: Ends) -> None:
        output = stage_for(parts[1], ends.tail)
        head = HeadOfWhole(ends.local, ends.target.model, K)
        executor = SplitDecodeExecutor(head, ends.peers, ends.target, Traffic(), Output(output))
        try:
            with pytest.raises(PeerError, match="nothing can be drawn"):
                await tokens(complete(ends.generation(0.0), [executor]))
            assert all(ends.peers.is_broken(view) for view in ends.peers.views())
        finally:
            await output.close()

    play(scene)


def test_cells_wait_at_the_peer_for_room_on_the_way_back(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing bulky comes back before the peer has done what it does without an acknowledgement."""
    monkeypatch.setattr(split_job, "BLOCK_S", 0.5)
    send, made = Session.send_blocks, 0

    def counted(session: Session, blocks: Iterable[tuple[int, bytes]], *, bulk: bool) -> None:
        nonlocal made
        made += session._split is not None  # the peer's end
        send(session, blocks, bulk=bulk)

    monkeypatch.setattr(Session, "send_blocks", counted)

    async def scene(ends: Ends) -> None:
        deliver = ends.broker.deliver

        def thin(topic: str, payload: bytes) -> None:
            if "/devices/kitchen/in/" not in topic or len(payload) < 2000:
                deliver(topic, payload)

        ends.broker.deliver = thin  # type: ignore[method-assign]
        traffic = Traffic()
        got = await tokens(complete(ends.generation(0.0), [ends.executor("split-prefill", traffic)]))
        assert made == 2
        assert "acknowledged nothing" in "".join(traffic.notes)
        assert got == await ends.alone(0.0)

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


def test_token_that_no_vocabulary_has_is_not_taken(play: Callable[[Scene], None]) -> None:
    async def scene(ends: Ends) -> None:
        ends.target = replace(ends.target, num_vocab=5)
        with pytest.raises(PeerError, match="the vocabulary has 5"):
            await tokens(complete(ends.generation(0.0), [ends.executor("split-decode", Traffic())]))

    play(scene)


def test_lost_connection_is_told(play: Callable[[Scene], None]) -> None:
    async def scene(ends: Ends) -> None:
        ends.peer_side.cut()
        with pytest.raises(PeerLostError):
            await tokens(complete(ends.generation(0.0), [ends.executor("split-decode", Traffic())]))

    play(scene)
