"""A prompt's hidden states on a slow link: few wait to be sent, and none is made later than the link could take it."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable

import pytest

from edgeagent.core.errors import PeerLostError
from edgeagent.core.generation import Generation, Sampling
from edgeagent.execution import splitting
from edgeagent.execution.heads import HeadOfWhole
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.session import Publish, Session
from edgeagent.execution.splitting import send_prompt
from edgeagent.execution.stage_sessions import HiddenRows
from edgeagent.model.store import StoredVariant
from edgeagent.wire.frames import SESSION_BYTES, PlainChannel
from edgeagent.wire.messages import chunks
from tests.machine import REPACKS

K, CHUNK, WIDTH, NUM_TOKENS = 4, 64, 576, 400
BYTES_S = 400_000
"""A chunk's hidden states take 0.37 s on such a link, its four layers a fraction of that."""


class Ends:
    """Two sessions over a link of `bytes_s`, 0: none. `ahead` is how many blocks were on their way to the far end as
    the near one made each."""

    def __init__(self, sizes: dict[int, int], bytes_s: float) -> None:
        channel = PlainChannel(secrets.token_bytes(SESSION_BYTES))
        self.near = _Noted(channel, self._publish, self)
        self.far = Session(channel, lambda data, _bulk: self.near.feed(data))
        self.far.expect(sizes)
        self.ahead: list[int] = []
        self._bytes_s, self._free_at = bytes_s, 0.0

    def _publish(self, data: bytes, bulk: bool) -> None:
        loop = asyncio.get_running_loop()
        if not bulk:
            loop.call_soon(self.far.feed, data)
        elif self._bytes_s:
            self._free_at = max(self._free_at, loop.time()) + len(data) / self._bytes_s
            loop.call_at(self._free_at, self.far.feed, data)


class _Noted(Session):
    def __init__(self, channel: PlainChannel, publish: Publish, ends: Ends) -> None:
        super().__init__(channel, publish)
        self._ends = ends

    def send_blocks(self, blocks: Iterable[tuple[int, bytes]], *, bulk: bool) -> None:
        self._ends.ahead.append(len(self._ends.ahead) - len(self._ends.far.receiver.blocks))
        super().send_blocks(blocks, bulk=bulk)


def sent(smollm2: StoredVariant, bytes_s: float) -> tuple[Ends, Exception | None]:
    """A prompt's hidden states, all of them at the far end; or what went wrong."""
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 512, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=CHUNK,
    )  # fmt: skip
    prompt, spans = tuple(range(1000, 1000 + NUM_TOKENS)), chunks(NUM_TOKENS, CHUNK)
    generation = Generation("g", smollm2.sha256, prompt, Sampling(), 1)
    ends = Ends({i: n * WIDTH * 4 for i, n in enumerate(spans)}, bytes_s)

    async def body() -> None:
        model = LocalModel(settings)
        head = HeadOfWhole(model, smollm2.card.id, K)
        try:
            async with head.session(NUM_TOKENS) as stage, ends.near.kept_alive(), ends.far.kept_alive():
                await send_prompt(stage, ends.near, generation, await head.descriptor(), "split-prefill")
                await ends.near.until_sent(60.0)
                async with contextlib.aclosing(stage.run_tokens(prompt, 0, spans)) as events:
                    made = [event.data async for event in events if isinstance(event, HiddenRows)]
                assert made == [ends.far.receiver.blocks[i] for i in range(len(spans))]
        finally:
            await model.close()

    try:
        asyncio.run(body())
    except PeerLostError as error:
        return ends, error
    return ends, None


def test_head_waits_for_a_slow_link(smollm2: StoredVariant) -> None:
    ends, error = sent(smollm2, BYTES_S)
    assert error is None
    assert len(ends.ahead) == 7
    assert max(ends.ahead) <= 2  # one is leaving, one waits behind it


def test_chunk_is_made_while_the_one_before_travels_and_no_more_where_nothing_arrives(
    smollm2: StoredVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "STALL_S", 0.3)
    ends, error = sent(smollm2, 0)
    assert "acknowledged nothing" in str(error)
    assert ends.ahead == [0, 1]
