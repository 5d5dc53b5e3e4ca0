"""One job at a peer: the engine's work on one side, the device's messages on the other."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from edgeagent.application.relay_job import RelayJob
from edgeagent.application.served_job import ServedModel, answer, check_job
from edgeagent.application.split_job import BLOCK_S, SplitJob, Upward
from edgeagent.core.errors import PeerError, RequestError, WireError
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.execution import canonical
from edgeagent.execution.admission import Claim, Urgency
from edgeagent.execution.executors import token_of
from edgeagent.execution.local import Exported, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.splitting import background
from edgeagent.execution.stages import StageModel
from edgeagent.wire.messages import (
    Accepted,
    Done,
    OfferedModel,
    Onward,
    Open,
    Progress,
    Step,
    Stop,
    decode_tokens,
    decode_turns,
)

PROMPT_S = 30.0
"""How long a device may take to send its prompt."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Layers `[begin, end)` that are loaded by themselves, and how long a job on others waits until those are."""

    loaded: tuple[tuple[int, int], ...]
    making_s: float


@dataclass(frozen=True, slots=True)
class Offer:
    """A model this peer runs: what it says of it, and how a job gets its engine for as long as it needs it.

    `tail` gives the layers from `k` on, for the cuts that the model names; `between` those from one cut up to another.
    """

    model: OfferedModel
    lease: Callable[[], AbstractAsyncContextManager[LocalModel]] | None = None
    tail: Callable[[int], AbstractAsyncContextManager[StageModel]] | None = None
    between: Callable[[int, int], AbstractAsyncContextManager[StageModel]] | None = None
    served: ServedModel | None = None
    """Of somebody else's server, instead of an engine here."""
    ready: Callable[[], Ready] | None = None
    """Which layers are loaded by themselves just now."""

    @property
    def told(self) -> OfferedModel:
        """What is said of the model now."""
        if self.ready is None:
            return self.model
        now = self.ready()
        return self.model.model_copy(update={"loaded": now.loaded, "making_s": round(now.making_s, 1)})


class StoppedError(PeerError):
    """The device wants nothing more."""


class Job:
    """One job: the work on one side, the device's messages on the other; the first to end ends both.

    `onward`: whom split jobs may be passed on to; None: nobody.
    """

    def __init__(
        self, session: Session, job: Open, offers: dict[str, Offer], claim: Claim, onward: Peers | None = None
    ) -> None:
        self._claim = claim
        self._onward = onward
        self._session = session
        self._job = job
        self._offers = offers
        self._prompt_here = asyncio.Event()
        self._upward = Upward(session)
        self._is_done = False

    async def run(self) -> None:
        """Until the device has all that was said, or has left: a connection may be away when the work ends.

        Raises what ended it before.
        """
        listener = asyncio.create_task(self._listen(), name="peer-listen")
        work = asyncio.create_task(self._work(), name="peer-work")
        try:
            done, _ = await asyncio.wait({listener, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._is_done = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BLOCK_S):
                    await listener
        finally:
            for task in (listener, work):
                task.cancel()
            await asyncio.gather(listener, work, return_exceptions=True)

    async def _listen(self) -> None:
        while not (self._is_done and self._session.is_all_seen):
            match await self._session.receive():
                case BlockArrived():
                    self._prompt_here.set()
                    self._upward.arrived.set()
                case Step() as step:
                    self._upward.take(step)
                case Progress(blocks=blocks):
                    self._session.skip_blocks_before(blocks)
                case Stop(reason=reason):
                    raise StoppedError(f"the device stopped it ({reason or 'done'})")
                case _:
                    continue

    async def _work(self) -> None:
        if self._job.job == "probe":
            await self._probe()
            return
        offer = self._find()
        if self._job.stage is not None:
            if self._job.onward is not None:
                await self._relay_work(offer, self._job.stage.k, self._job.onward)
            else:
                await self._split_work(offer, self._job.stage.k)
            return
        if offer.served is not None:
            await self._served_work(offer.served)
            return
        assert offer.lease is not None
        assert offer.model.variant_sha256 is not None
        # A place in the queue comes first, so that a device need not send what would be refused.
        async with offer.lease() as engine:
            with engine.admission.place(self._claim) as claim:
                await self._answer(engine, offer.model.variant_sha256, claim)

    async def _served_work(self, model: ServedModel) -> None:
        check_job(self._job)
        with model.admission.place(self._claim) as claim:
            await self._prompt()
            turns = decode_turns(self._session.receiver.blocks[0])
            async with model.admission.turn(claim):
                await answer(self._session, model, self._job, turns)
            await self._until_sent()

    async def _split_work(self, offer: Offer, k: int) -> None:
        if offer.tail is None or k not in offer.model.cuts:
            raise RequestError(f"this peer runs no layers of '{offer.model.model}' from {k} on; ask what it offers")
        async with offer.tail(k) as stage:
            await SplitJob(self._session, self._job, stage, self._upward).run(self._claim)

    async def _relay_work(self, offer: Offer, k: int, onward: Onward) -> None:
        if self._onward is None or offer.between is None or onward.k - k > offer.model.most_between:
            raise RequestError(
                f"this peer does not run layers {k} to {onward.k} of '{offer.model.model}' to pass them on; ask what it"
                " offers"
            )
        if not self._onward.may(onward.peer, self._job.job, self._job.model):
            raise RequestError(f"no credential allows this peer {self._job.job} with peer '{onward.peer}'")
        job = RelayJob(self._session, self._job, self._upward, self._onward)
        is_ready = (k, onward.k) in offer.told.loaded
        rousing = contextlib.nullcontext() if is_ready else background(job.rouse(), "relay-rouse")
        async with rousing, offer.between(k, onward.k) as stage:
            await job.run(stage, self._claim)

    async def _answer(self, engine: LocalModel, variant_sha256: str, claim: Claim) -> None:
        await self._prompt()
        async with engine.lease(claim) as urgency:
            facts = await engine.facts()
            if self._job.exact_key and self._job.exact_key != facts.exact_key:
                raise RequestError("this peer's build or settings differ, its cache would not be the same bits")
            generation = await self._generation(engine, variant_sha256)
            note = engine.template_note if self._job.prompt_form == "turns" else None
            self._session.send(Accepted(kv_bytes_per_token=facts.kv_bytes_per_token, note=note))
            await self._generate(engine, generation, urgency)

    async def _prompt(self) -> None:
        """It comes before the engine is taken: a device that never sends it must not hold the engine."""
        try:
            async with asyncio.timeout(PROMPT_S):
                await self._prompt_here.wait()
        except TimeoutError:
            raise WireError(f"the prompt did not come within {PROMPT_S:g} s") from None

    def _find(self) -> Offer:
        offer = self._offers.get(self._job.model)
        if offer is None or self._job.variant_sha256 not in (None, offer.model.variant_sha256):
            raise RequestError(f"this peer does not hold that variant of '{self._job.model}'")
        return offer

    async def _generation(self, engine: LocalModel, variant_sha256: str) -> Generation:
        data = self._session.receiver.blocks[0]
        if self._job.prompt_form == "tokens":
            prompt = decode_tokens(data)
        else:
            turns = decode_turns(data)
            prompt = await engine.encode([{"role": t.role, "content": t.content} for t in turns])
        return Generation(
            id=secrets.token_hex(8),
            variant_sha256=variant_sha256,
            prompt=prompt,
            sampling=self._job.sampling,
            max_tokens=self._job.max_tokens,
            output=self._job.drawn,
        )

    async def _generate(self, engine: LocalModel, generation: Generation, urgency: Urgency) -> None:
        events = engine.generate(generation, urgency, export_kv=self._job.job == "prefill")
        reason = "length"
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Exported):
                    self._send_cache(event, engine.settings.chunk_tokens)
                elif isinstance(event, TokenStep):
                    self._session.send(token_of(event))
                    reason = "stop" if event.is_end else "length"
        self._session.send(Done(reason="stop" if reason == "stop" else "length", prompt_tokens=len(generation.prompt)))
        await self._until_sent()

    def _send_cache(self, exported: Exported, chunk: int) -> None:
        """Newest tokens first: the device comes from the other end."""
        cell_bytes = len(exported.data) // exported.cells
        blocks: list[tuple[int, bytes]] = []
        for index in reversed(range(canonical.num_blocks(exported.cells, chunk))):
            first, end = canonical.block_range(index, exported.cells, chunk)
            blocks.append((index, exported.data[first * cell_bytes : end * cell_bytes]))
        self._session.send_blocks(blocks, bulk=True)

    async def _probe(self) -> None:
        self._session.send(Accepted())
        self._session.send_blocks([(0, secrets.token_bytes(self._job.probe_bytes))], bulk=True)
        await self._until_sent()

    async def _until_sent(self) -> None:
        """Stay until the last block is acknowledged, or the device stops or falls silent (then `_listen` raises)."""
        await self._session.until_sent(BLOCK_S)
        self._session.send(Done(reason="sent"))
