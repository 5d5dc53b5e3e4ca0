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
BATCHES = (1, 2, 4, 8, 16)
ROUNDS = 2
"""Of each batch; the quickest counts."""
WORTHWHILE = 0.95
"""A larger batch whose tokens take more than so much of a smaller one's time is not worth what a wrong guess costs."""
MAX_DRAWS = 1024
GREEDY = Sampling(temperature=0.0, logprobs=MAX_TOP_LOGPROBS)
ASKED = [
    {
        "role": "user",
        "content": "The ferry left the small harbour at nine with 23 passengers, and came back before the storm. " * 20,
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
    """Hidden states of BATCHES[-1] tokens, for trying what comes behind."""


async def try_head(stage: StageModel) -> Trial:
    """Takes some hundred tokens' time. Raises as `StageModel.session`, and EngineError."""
    most = (await stage.facts()).context_tokens - BATCHES[-1]
    text = await stage.encode(ASKED)
    num_prompt = min(PROMPT_TOKENS, most, len(text) - BATCHES[-1])
    prompt, behind = text[:num_prompt], text[num_prompt : num_prompt + BATCHES[-1]]
    async with stage.session(num_prompt + len(behind)) as session:
        spans = canonical.spans(len(prompt), 0, stage.settings.chunk_tokens)
        prefill_s, _ = await _timed(session.run_tokens(prompt, 0, spans))
        decode_s, singles = await _timed(session.run_tokens(behind, num_prompt, [1] * len(behind)))

        def together(size: int) -> AsyncGenerator[StageEvent, None]:
            return session.run_tokens(behind[:size], num_prompt, [size])

        batch_rows = await _best_rows(together, singles, stage.settings.chunk_tokens)
    return Trial(num_prompt, num_prompt / prefill_s, len(behind) / decode_s, batch_rows, singles)


async def try_output(stage: StageModel, rows: bytes) -> int:
    """How many tokens' draws from an output head had best share a batch (see `Trial`). `rows` are any hidden states of
    BATCHES[-1] tokens.

    Raises as `try_head`.
    """
    async with stage.session(BATCHES[-1], sampling=GREEDY) as session:
        return await _best_drawn(session, rows, [0] * BATCHES[-1])


async def rows_of(whole: LocalModel) -> bytes:
    """Hidden states of BATCHES[-1] tokens in a whole model, for trying what comes behind. Raises as `open_head`."""
    tokens, facts = (await whole.encode(ASKED))[: BATCHES[-1]], await whole.facts()
    async with open_head(whole, facts.layers - 1, len(tokens), "f32") as head:
        _, rows = await _timed(head.run_tokens(tokens, 0, [1] * len(tokens)))
    return rows


async def try_behind(stage: StageModel, whole: LocalModel) -> int:
    """The same of a tail's draws, or of a middle's hidden states, behind a prompt whose hidden states the whole model
    gives. Raises as `try_head`."""
    text, k, chunk_tokens = await whole.encode(ASKED), stage.cut.begin, stage.settings.chunk_tokens
    prompt, behind = text[:chunk_tokens], text[chunk_tokens : chunk_tokens + BATCHES[-1]]
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

        def together(size: int) -> AsyncGenerator[StageEvent, None]:
            return session.run_hidden(rows[: size * row_bytes], len(prompt), [size], all_rows=True)

        return await _best_rows(together, singles, chunk_tokens)


async def _best_drawn(session: StageSession, rows: bytes, positions: Sequence[int]) -> int:
    """Log-probabilities are compared, which all logits go into."""
    row_bytes = len(rows) // len(positions)
    singles: list[TokenStep] = []
    for i, position in enumerate(positions):
        singles += await _drawn(session, rows[i * row_bytes : (i + 1) * row_bytes], position, ())

    async def is_same(size: int) -> bool:
        guesses = tuple(step.token for step in singles[: size - 1])
        together = await _drawn(session, rows[: size * row_bytes], positions[0], guesses)
        return [_told(step) for step in together] == [_told(step) for step in singles[:size]]

    return await _best(is_same, BATCHES)


async def _drawn(session: StageSession, rows: bytes, position: int, guesses: tuple[int, ...]) -> list[TokenStep]:
    run = session.run_hidden(rows, position, [1 + len(guesses)], draw=Draw(MAX_DRAWS, guesses))
    async with contextlib.aclosing(run) as events:
        return [event async for event in events if isinstance(event, TokenStep)]


def _told(step: TokenStep) -> tuple[object, ...]:
    return (step.token, step.logprob, step.top)


async def _best_rows(run: Callable[[int], AsyncGenerator[StageEvent, None]], singles: bytes, chunk_tokens: int) -> int:
    """`run` evaluates a batch of so many tokens in place of those that gave `singles`: so dropping was tried, too."""
    row_bytes = len(singles) // BATCHES[-1]

    async def is_same(size: int) -> bool:
        _, together = await _timed(run(size))
        return together == singles[: size * row_bytes]

    return await _best(is_same, [size for size in BATCHES if size <= chunk_tokens])


async def _best(is_same: Callable[[int], Awaitable[bool]], sizes: Sequence[int]) -> int:
    """The size to take, of those up to the first that changes bits; 0 when that is the first."""
    best, best_s = 0, math.inf
    for size in sizes:
        for _ in range(ROUNDS):
            started = time.monotonic()
            if not await is_same(size):
                return best
            row_s = (time.monotonic() - started) / size
            if size == best or row_s < WORTHWHILE * best_s:
                best, best_s = size, min(row_s, best_s)
    return best


async def _timed(events: AsyncGenerator[StageEvent, None]) -> tuple[float, bytes]:
    """Seconds, and the hidden states."""
    started, rows = time.monotonic(), list[bytes]()
    async with contextlib.aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, HiddenRows):
                rows.append(event.data)
    return max(time.monotonic() - started, 1e-6), b"".join(rows)
