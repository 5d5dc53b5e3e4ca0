"""The job that extends a Generation: draws, reports, and has drafts checked where they pay."""

from collections.abc import Generator

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama import jobs
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.drafting import Drafter, Drafting
from edgeagent.execution.llama.jobs import Granted, Keeper, SharedSteps, Text, Want
from edgeagent.execution.llama.pruned import fill_pruned, pruning_of
from edgeagent.execution.llama.sampler import Sampler
from edgeagent.execution.llama.slots import Slot
from edgeagent.execution.scheduler import Kind
from edgeagent.execution.worker import Request

LEAST_CHUNK = 8
"""Rows of a prompt's piece whose time says what batches cost."""


def generate(context: Context, slot: Slot, request: Request, text: Text, drafting: Drafting) -> SharedSteps:
    """Op `generate {prompt, output, sampling, max_tokens, export_kv, keep_from, adapter, adapter_path, pruning,
    priority, due_s}`: extend a Generation token by token.

    Events: `evaluated` after each piece, `cells` with the KV blocks as bulk (if asked, before the first token),
    `token` with its bytes as bulk (`logprob` and `top`, too, if asked; `drafted` and `accepted` with the last token
    of a draft), `kept` (see `Keeper`), `pruned` (see `fill_pruned`). `max_tokens` counts the given output, too.
    """
    params = request.params
    prompt, output = text
    pruning = pruning_of(params)
    if slot.adapter or pruning:  # how wide a batch may be was probed without either
        drafting = Drafting()
    sampling = Sampling.model_validate(params["sampling"])
    sampler = Sampler(context, sampling, prompt)
    keeper = Keeper(slot, request, None if pruning else params.get("keep_from"))
    try:
        for token in output:
            sampler.accept(token)
        if pruning:
            row = yield from fill_pruned(context, slot, request, (prompt, output), pruning)
        else:
            spans = slot.canonical_spans(len(prompt), len(output))
            row = yield from _watched(jobs.fill(slot, request, prompt + output, spans), drafting)
        if params.get("export_kv"):
            request.event(jobs.export_blocks(context, slot, len(prompt)), cells=len(prompt))
        drafter = Drafter(drafting, prompt + output, len(prompt), sampling)
        yield from _decode(Answer(request, sampler, len(output)), slot, keeper, drafter, row)
    finally:
        sampler.close()


class Answer:
    """Draws the tokens of one answer in order and reports each."""

    def __init__(self, request: Request, sampler: Sampler, position: int) -> None:
        self._request = request
        self._sampler = sampler
        self._max_tokens = int(request.params["max_tokens"])
        self._position = position
        self.is_over = position >= self._max_tokens
        self.reason = "length"

    @property
    def num_left(self) -> int:
        return self._max_tokens - self._position

    def reply(self) -> None:
        self._request.reply(reason=self.reason)

    def draw(self, row: int, guesses: list[int]) -> list[int]:
        """Tokens at a batch's rows from `row` on, of which those behind the first stood for `guesses`: at least one,
        then on as long as the guesses were right and the answer is not over."""
        drawn = [self._draw(row, guesses, 0)]
        while not self.is_over and len(drawn) <= len(guesses) and drawn[-1] == guesses[len(drawn) - 1]:
            drawn.append(self._draw(row + len(drawn), guesses, len(drawn)))
        return drawn

    def _draw(self, row: int, guesses: list[int], index: int) -> int:
        sampler, model = self._sampler, self._sampler.model
        token = sampler.draw(self._position, row)
        is_end = model.is_end(token)
        self.is_over = is_end or self._position + 1 == self._max_tokens
        self.reason = "stop" if is_end else "length"
        is_last = self.is_over or index == len(guesses) or token != guesses[index]
        told = {"drafted": len(guesses), "accepted": index} if guesses and is_last else {}
        facts = sampler.logprobs(token, row) | told
        self._request.token(model.piece(token), position=self._position, token=token, is_end=is_end, **facts)
        self._position += 1
        return token


def _decode(answer: Answer, slot: Slot, keeper: Keeper, drafter: Drafter, row: int) -> SharedSteps:
    """`row` of the newest batch has the logits of the first draw."""
    drawn = [] if answer.is_over else answer.draw(row, [])
    drafter.follow(drawn)
    while not answer.is_over:
        keeper.keep_when_due()
        guesses = drafter.propose(answer.num_left - 1)
        granted = yield Want(slot, Kind.DECODE, [drawn[-1], *guesses])
        drawn = answer.draw(granted.row, guesses[: granted.num_tokens - 1])
        if superfluous := granted.num_tokens - len(drawn):
            _drop(slot, superfluous)
        if not answer.is_over:
            drafter.note(drawn, granted)
    answer.reply()


def _drop(slot: Slot, num_tokens: int) -> None:
    """Cells of guesses that were wrong."""
    num_kept = len(slot.tokens) - num_tokens
    slot.rewind(num_tokens)
    if len(slot.tokens) != num_kept:
        raise EngineError("the cache of this model cannot be rewound, but guesses were evaluated; ask again")


def _watched(filling: Generator[Want, Granted, int], drafting: Drafting) -> Generator[Want, Granted, int]:
    """`filling`, whose batches tell what several rows cost."""
    want = next(filling)
    while True:
        granted = yield want
        if granted.is_alone and granted.num_tokens >= LEAST_CHUNK:
            drafting.costs.observe_chunk(granted.num_tokens, granted.seconds)
        try:
            want = filling.send(granted)
        except StopIteration as stop:
            row: int = stop.value
            return row
