"""What a llama worker does step by step, so that messages and other jobs get in between."""

import math
import mmap
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgeagent.core.errors import ContextLengthError, EngineError, RequestError
from edgeagent.execution import canonical
from edgeagent.execution.channel import Files
from edgeagent.execution.fairness import USUAL, Priority, Urgency
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.slots import Slot, claim
from edgeagent.execution.scheduler import Kind
from edgeagent.execution.worker import Request

Steps = Generator[None, None, None]
"""A job that computes alone: every `yield` is the end of one unit of work."""


@dataclass(frozen=True, slots=True)
class Want:
    """The next tokens of a slot that a job wants evaluated; see `scheduler.Want`. Logits of every row of a decode."""

    slot: Slot
    kind: Kind
    tokens: Sequence[int]
    span: int | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The first `num_tokens` of a want are evaluated; `row` is the batch's row of the first of them.

    The batch took `seconds`, and had nothing else in it if the want `is_alone`.
    """

    num_tokens: int
    row: int
    seconds: float
    is_alone: bool


class Text(NamedTuple):
    """Token ids of a prompt, and of the output so far: all of the vocabulary, and not too many."""

    prompt: list[int]
    output: list[int]


SharedSteps = Generator[Want, Granted, None]
"""A job that shares batches with others: it yields what it wants and is resumed with what it got."""


def fill(slot: Slot, request: Request, tokens: list[int], spans: list[int]) -> Generator[Want, Granted, int]:
    """Bring the cache to `tokens`, canonically, reporting the tokens evaluated; the row of the last one's logits."""
    done, row = slot.prepare(tokens, spans), -1
    request.event(evaluated=done, reused=done)
    while done < len(tokens):
        span = spans[len(slot.spans)] if spans else None
        granted = yield Want(slot, Kind.PREFILL, tokens[done : done + span] if span else tokens[done:], span)
        done += granted.num_tokens
        row = granted.row + granted.num_tokens - 1
        request.event(evaluated=done)
    return row


def prefill(context: Context, slot: Slot, request: Request, text: Text) -> SharedSteps:
    """Op `prefill {prompt, priority, due_s}`: fill the cache; a caller that has met the peer's blocks cancels it
    half-way.
    """
    prompt = text.prompt
    yield from fill(slot, request, prompt, slot.canonical_spans(len(prompt), 0))
    request.reply(evaluated=len(prompt))


KEEP_EVERY_S = 1.0
KEEP_SHARE = 1 / 200
"""Keeping cells may take this part of the time: reading a state costs by its whole length."""


class Keeper:
    """Sends the cells that are new since the last time, now and then, for whoever resumes after a death of this worker.

    Event `kept {first, end}` with one descriptor of their rows, plane after plane. The first time is right after the
    first token: the prompt is what is dearest to evaluate again.
    """

    def __init__(self, slot: Slot, request: Request, first: int | None) -> None:
        """Cells before `first` are kept already; None: nothing is to be kept."""
        self._slot = slot
        self._request = request
        self._first = first
        self._due = 0.0

    def keep_when_due(self) -> None:
        if self._first is None or time.monotonic() < self._due:
            return
        started = time.monotonic()
        if (num_cells := len(self._slot.tokens)) > self._first:
            self._request.event(Files([rows_file(self._slot, self._first, num_cells)]), kept=[self._first, num_cells])
            self._first = num_cells
        ended = time.monotonic()
        self._due = ended + max(KEEP_EVERY_S, (ended - started) / KEEP_SHARE)


def rows_file(slot: Slot, first: int, end: int) -> int:
    """A descriptor of an anonymous memory file with the rows of cells `[first, end)`; the caller closes it."""
    state = slot.read_state()
    descriptor = os.memfd_create("edgeagent-cells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb", buffering=0) as file:
        for rows in kv.cut(state, first, end):
            file.write(rows)
    return descriptor


def keep(context: Context, request: Request) -> None:
    """Op `keep {prompt, output, first, adapter}`: the cells from `first` on, as far as a slot has them of these tokens.

    Replies `kept [first, end]` with one descriptor; without one when no slot has more.
    """
    prompt, output = tokens_of(context, request)
    first, tokens = int(request.params["first"]), prompt + output
    adapter = adapter_of(request)
    spans = context.canonical_spans(len(prompt), len(output), adapter)
    for slot in context.slots:
        reusable, _ = slot.reusable(tokens, spans, adapter)
        if not slot.is_busy and reusable > first:
            request.reply(Files([rows_file(slot, first, reusable)]), kept=[first, reusable])
            return
    request.reply(kept=None)


def held(context: Context, request: Request) -> None:
    """Op `held {prompt, output, adapter}`: how many of these tokens some slot holds already, from the first on."""
    prompt, output = tokens_of(context, request)
    adapter = adapter_of(request)
    spans = context.canonical_spans(len(prompt), len(output), adapter)
    request.reply(tokens=max(slot.reusable(prompt + output, spans, adapter)[0] for slot in context.slots))


def restore(context: Context, request: Request) -> None:
    """Op `restore {prompt, output, parts, adapter}` with a file a part: fill a slot with cells kept of these tokens.

    `parts` are `[cells in the file, first wanted, number wanted]`; together they are all the tokens' cells. Replies
    `tokens` 0 when every slot is in use. Raises EngineError for rows that cannot be those.
    """
    prompt, output = tokens_of(context, request)
    if (slot := claim(context.slots, prompt + output, [], adapter_of(request))) is None:
        request.reply(tokens=0)
        return
    try:
        parts = [
            _part(data, numbers, context.bytes_per_token)
            for data, numbers in zip(request.read_files(), request.params["parts"], strict=True)
        ]
        if sum(part.take for part in parts) != len(prompt + output):
            raise EngineError("the kept cells are not those of these tokens")
        slot.restore(prompt + output, slot.canonical_spans(len(prompt), len(output)), parts)
    finally:
        slot.release()
    request.reply(tokens=len(slot.tokens))


def _part(data: mmap.mmap, numbers: Sequence[int], cell_bytes: int) -> kv.Part:
    num_cells, skip, take = (int(number) for number in numbers)
    return kv.Part(memoryview(data)[: num_cells * cell_bytes], num_cells, skip, take)


def claim_free(context: Context, tokens: Sequence[int], spans: Sequence[int]) -> Slot:
    """A slot for these tokens, now busy. Raises EngineError."""
    if (slot := claim(context.slots, tokens, spans)) is None:
        raise EngineError("every sequence of this engine is in use; try again")
    return slot


def export_blocks(context: Context, slot: Slot, num_tokens: int) -> list[bytes]:
    """The first `num_tokens` cells as blocks of one chunk each, in order."""
    state, chunk = slot.read_state(), context.settings.chunk_tokens
    count = canonical.num_blocks(num_tokens, chunk)
    return [kv.cut_block(state, *canonical.block_range(i, num_tokens, chunk)) for i in range(count)]


def splice(context: Context, request: Request) -> None:
    """Op `splice {prompt, first_block}` with blocks `first_block…` as bulk: complete the cache of a prompt."""
    prompt, _ = tokens_of(context, request)
    chunk, first = context.settings.chunk_tokens, int(request.params["first_block"])
    cell_bytes = context.bytes_per_token
    blocks: list[tuple[int, bytes]] = []
    offset = 0
    for index in range(first, canonical.num_blocks(len(prompt), chunk)):
        begin, end = canonical.block_range(index, len(prompt), chunk)
        size = (end - begin) * cell_bytes
        blocks.append((end - begin, request.bulk[offset : offset + size]))
        offset += size
    spans = context.canonical_spans(len(prompt), 0)
    slot = claim_free(context, prompt, spans)
    try:
        slot.splice(prompt, spans, blocks)
    finally:
        slot.release()
    request.reply(tokens=len(prompt))


def bench(context: Context, request: Request) -> Steps:
    """Op `bench {prompt_tokens, decode_tokens}`: rates of an empty cache, in tokens a second."""
    num_prompt, num_decode = int(request.params["prompt_tokens"]), int(request.params["decode_tokens"])
    check_fits(context, num_prompt, num_decode)
    tokens = _any_tokens(context, 0, num_prompt + num_decode)
    slot = context.slots[0]
    slot.clear()
    started, done = time.perf_counter(), 0
    for length in canonical.spans(num_prompt, 0, context.settings.chunk_tokens):
        slot.evaluate(tokens[done : done + length])
        done += length
        yield
    prefilled = time.perf_counter()
    for token in tokens[num_prompt:]:
        slot.evaluate([token])
        yield
    ended = time.perf_counter()
    slot.clear()
    request.reply(
        prefill_tok_s=num_prompt / (prefilled - started), decode_tok_s=num_decode / max(ended - prefilled, 1e-9)
    )


def time_spans(context: Context, request: Request) -> Steps:
    """Op `time {spans, past, threads}`: seconds of each of these batches, one after the other behind `past` tokens.

    Without `threads`, with as many as are set.
    """
    spans, past = [int(n) for n in request.params["spans"]], int(request.params.get("past", 0))
    check_fits(context, past + sum(spans), 0)
    if "threads" in request.params:
        context.set_threads(int(request.params["threads"]))
    slot = context.slots[0]
    slot.clear()
    seconds: list[float] = []
    for num_tokens in [*canonical.spans(past, 0, context.settings.chunk_tokens), *spans]:
        tokens = _any_tokens(context, len(slot.tokens), num_tokens)
        started = time.perf_counter()
        slot.evaluate(tokens)
        seconds.append(time.perf_counter() - started)
        yield
    slot.clear()
    request.reply(seconds=seconds[-len(spans) :])


def _any_tokens(context: Context, first: int, count: int) -> list[int]:
    """Any ids will do for speed; a spread over the vocabulary keeps the embedding rows from staying in cache."""
    return [(i * 7919) % context.model.num_vocab for i in range(first, first + count)]


def tokens_of(context: Context, request: Request) -> Text:
    """Prompt and output of a request, when they fit and every id is of the vocabulary: llama.cpp aborts on others.

    Raises RequestError, ContextLengthError.
    """
    prompt = _token_ids(context, request.params["prompt"], least=1)
    output = _token_ids(context, request.params.get("output", ()), least=0)
    check_fits(context, len(prompt), max(int(request.params.get("max_tokens", 0)), len(output)))
    return Text(prompt, output)


def urgency_of(request: Request) -> Urgency:
    """What a request counts for beside others. Raises RequestError."""
    priority, due_s = request.params.get("priority", USUAL.priority), request.params.get("due_s", USUAL.due_s)
    if not isinstance(priority, int) or not Priority.HIGH <= priority <= Priority.LOW:
        raise RequestError(f"priority is {priority!r}; give 0 to 2")
    if not isinstance(due_s, int | float) or not math.isfinite(due_s):
        raise RequestError(f"due_s is {due_s!r}; give monotonic seconds")
    return Urgency(priority, float(due_s))


def adapter_of(request: Request) -> str:
    """The key of the adapter that a request's cells are of; empty: none."""
    return str(request.params.get("adapter") or "")


def _token_ids(context: Context, values: Sequence[int], *, least: int) -> list[int]:
    """The ids, when every one is of the vocabulary: llama.cpp aborts the process on others."""
    ids, count = [int(value) for value in values], context.model.num_vocab
    if len(ids) < least:
        raise RequestError("the prompt has no tokens; send some text")
    if (wrong := next((i for i in ids if not 0 <= i < count), None)) is not None:
        raise RequestError(f"token id {wrong} is not in the vocabulary of {count}; use the model's own tokenizer")
    return ids


def check_fits(context: Context, num_prompt: int, num_output: int) -> None:
    limit = context.settings.context_tokens
    if num_prompt + num_output > limit:
        raise ContextLengthError(
            f"{num_prompt} prompt tokens and {num_output} answer tokens exceed the context of {limit};"
            " shorten the prompt, ask for fewer tokens, or let it be reduced"
        )
