"""What a stage by itself can do on this machine: how many tokens had best share a batch, and how fast a head is."""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from edgeagent.core.generation import MAX_TOP_LOGPROBS, Sampling, TokenStep
from edgeagent.execution import canonical
from edgeagent.execution.local import LocalModel
from edgeagent.execution.stage_sessions import Draw, HiddenRows, StageEvent, StageSession, open_head
from edgeagent.execution.stages import StageModel

PROMPT_TOKENS = 320
"""Over 256: from there on ggml splits one token's attention among threads (`LoadSettings.is_thread_invariant`)."""
BEHIND_TOKENS = 32
"""Compared for each size of a batch. Few would not do: activations are rounded to 8 bits on their way, so that another
order of adding up often leaves no trace in a row, and then does in the next."""
BATCHES = (1, 2, 4, 8, 16)
WORTHWHILE = 0.95
"""A larger batch whose tokens take more than so much of a smaller one's time is not worth what a wrong guess costs."""
MAX_DRAWS = 1024
GREEDY = Sampling(temperature=0.0, logprobs=MAX_TOP_LOGPROBS)
ASKED = [
    {
        "role": "user",
        "content": """\
The ferry left the small harbour at nine with 23 passengers, a crate of oranges and the mail, and came back before the
storm. Nobody on the quay had expected it so early. Marta, who keeps the tide tables, wrote 11:40 into her book and
underlined it twice; old Henrik only shook his head, lit his pipe, and went on mending nets. What happened out there?
The captain says: "We turned round off Grey Point because the barometer fell by eight millibars in half an hour." His
mate tells another story, in which a whale, two fishing boats and a broken pump play their parts. Perhaps both are
true. By noon the wind blew from the north-west with 60 km/h, tiles flew off the roof of the school, and the power
failed in every street above the church. Children were sent home in pairs. The baker gave away what bread he had left,
since his oven was cold anyway, while the doctor drove from house to house with candles and advice. At three the radio
announced that bridge number 7 was closed; at four that it was gone. Then, quite suddenly, the rain stopped, a thin
yellow light lay over the bay, and somebody began to ring the bell. Today the island counts its damage: 14 boats sunk
or ashore, one cow missing, a cellar full of herring that floated in through the window, and no one hurt. The mayor
thanked all helpers, promised new poles for the telephone line until Friday, and asked for patience. As for the
oranges, they are drifting past the lighthouse one by one, and the seals seem to like playing with them.""",
    }
]


@dataclass(frozen=True, slots=True)
class Trial:
    """Tokens a second through the layers of this stage. `batch_rows`: of the batches that give the bits that tokens
    behind a prompt give one by one, the one whose tokens take the least time; 0: even one token alone does not, in
    place of others that were dropped."""

    prompt_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    batch_rows: int
    rows: bytes = b""
    """Hidden states of BEHIND_TOKENS tokens, for trying what comes behind."""
    drawn_rows: int = 0
    """The batch of an output head beside it."""


async def try_head(stage: StageModel) -> Trial:
    """Takes some hundred tokens' time. Raises as `StageModel.session`, and EngineError."""
    most = (await stage.facts()).context_tokens - BEHIND_TOKENS
    text = await stage.encode(ASKED)
    num_prompt = min(PROMPT_TOKENS, most, len(text) - BEHIND_TOKENS)
    prompt, behind = text[:num_prompt], text[num_prompt : num_prompt + BEHIND_TOKENS]
    async with stage.session(num_prompt + len(behind)) as session:
        spans = canonical.spans(len(prompt), 0, stage.settings.chunk_tokens)
        prefill_s, _ = await _timed(session.run_tokens(prompt, 0, spans))
        decode_s, singles = await _timed(session.run_tokens(behind, num_prompt, [1] * len(behind)))

        def together(first: int, size: int) -> AsyncGenerator[StageEvent, None]:
            return session.run_tokens(behind[first : first + size], num_prompt + first, [size])

        batch_rows = await _best_rows(together, singles, stage.settings.chunk_tokens)
    return Trial(num_prompt, num_prompt / prefill_s, len(behind) / decode_s, batch_rows, singles)


async def try_output(stage: StageModel, rows: bytes) -> int:
    """How many tokens' draws from an output head had best share a batch (see `Trial`). `rows` are any hidden states of
    BEHIND_TOKENS tokens.

    Raises as `try_head`.
    """
    async with stage.session(BATCHES[-1], sampling=GREEDY) as session:
        return await _best_drawn(session, rows, [0] * BEHIND_TOKENS)


async def rows_of(whole: LocalModel) -> bytes:
    """Hidden states of BEHIND_TOKENS tokens in a whole model, for trying what comes behind. Raises as `open_head`."""
    tokens, facts = (await whole.encode(ASKED))[:BEHIND_TOKENS], await whole.facts()
    async with open_head(whole, facts.layers - 1, len(tokens), "f32") as head:
        _, rows = await _timed(head.run_tokens(tokens, 0, [1] * len(tokens)))
    return rows


async def try_behind(stage: StageModel, whole: LocalModel) -> int:
    """The same of a tail's draws, or of a middle's hidden states, behind a prompt whose hidden states the whole model
    gives. Raises as `try_head`."""
    text, k, chunk_tokens = await whole.encode(ASKED), stage.cut.begin, stage.settings.chunk_tokens
    num_prompt = min(chunk_tokens, len(text) - BEHIND_TOKENS)
    prompt, behind = text[:num_prompt], text[num_prompt : num_prompt + BEHIND_TOKENS]
    async with open_head(whole, k, len(prompt) + len(behind), "f32") as head:
        _, before = await _timed(head.run_tokens(prompt, 0, [len(prompt)]))
        _, rows = await _timed(head.run_tokens(behind, len(prompt), [1] * len(behind)))
    sampling = None if stage.cut.ends_inside else GREEDY
    async with stage.session(len(prompt) + len(behind), sampling=sampling) as session:
        await _timed(session.run_hidden(before, 0, [len(prompt)]))
        if sampling:
            return await _best_drawn(session, rows, [len(prompt) + i for i in range(len(behind))])
        _, singles = await _timed(session.run_hidden(rows, len(prompt), [1] * len(behind)))
        row_bytes = len(rows) // len(behind)

        def together(first: int, size: int) -> AsyncGenerator[StageEvent, None]:
            part = rows[first * row_bytes : (first + size) * row_bytes]
            return session.run_hidden(part, len(prompt) + first, [size], all_rows=True)

        return await _best_rows(together, singles, chunk_tokens)


async def _best_drawn(session: StageSession, rows: bytes, positions: Sequence[int]) -> int:
    """Log-probabilities are compared, which all logits go into."""
    row_bytes = len(rows) // len(positions)

    async def drawn(first: int, guesses: tuple[int, ...]) -> list[TokenStep]:
        part = rows[first * row_bytes : (first + 1 + len(guesses)) * row_bytes]
        run = session.run_hidden(part, positions[first], [1 + len(guesses)], draw=Draw(MAX_DRAWS, guesses))
        async with contextlib.aclosing(run) as events:
            return [event async for event in events if isinstance(event, TokenStep)]

    singles = [step for first in range(len(positions)) for step in await drawn(first, ())]

    async def is_same(first: int, size: int) -> bool:
        alone = singles[first : first + size]
        together = await drawn(first, tuple(step.token for step in alone[:-1]))
        return [_told(step) for step in together] == [_told(step) for step in alone]

    return await _best(is_same, BATCHES)


def _told(step: TokenStep) -> tuple[object, ...]:
    return (step.token, step.logprob, step.top)


async def _best_rows(
    run: Callable[[int, int], AsyncGenerator[StageEvent, None]], singles: bytes, chunk_tokens: int
) -> int:
    """`run` evaluates a batch, from a token on and of so many, in place of those that gave `singles`."""
    row_bytes = len(singles) // BEHIND_TOKENS

    async def is_same(first: int, size: int) -> bool:
        _, together = await _timed(run(first, size))
        return together == singles[first * row_bytes : (first + size) * row_bytes]

    return await _best(is_same, [size for size in BATCHES if size <= chunk_tokens])


async def _best(is_same: Callable[[int, int], Awaitable[bool]], sizes: Sequence[int]) -> int:
    """The size to take, of those up to the first that changes bits; 0 when that is the first.

    Each round begins at the first token, so that those of the one before are dropped.
    """
    best, best_s = 0, math.inf
    for size in sizes:
        started = time.monotonic()
        for first in range(0, BEHIND_TOKENS, size):
            if not await is_same(first, size):
                return best
        if (took_s := time.monotonic() - started) < WORTHWHILE * best_s:
            best, best_s = size, took_s
    return best


async def _timed(events: AsyncGenerator[StageEvent, None]) -> tuple[float, bytes]:
    """Seconds, and the hidden states."""
    started, rows = time.monotonic(), list[bytes]()
    async with contextlib.aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, HiddenRows):
                rows.append(event.data)
    return max(time.monotonic() - started, 1e-6), b"".join(rows)
