"""What a llama worker does step by step: one prompt chunk or one token a step, so that messages get in between."""

import time
from collections.abc import Generator, Sequence

from edgeagent.core.errors import ContextLengthError, RequestError
from edgeagent.core.generation import Sampling
from edgeagent.execution import canonical
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.sampler import Sampler
from edgeagent.execution.worker import Request

Steps = Generator[None, None, None]
"""A job is a generator: every `yield` is the end of one unit of work."""


def evaluate_prompt(context: Context, request: Request, prompt: list[int], output: list[int]) -> Steps:
    """Bring the cache to `prompt + output`, canonically, reporting the tokens evaluated after each span."""
    chunk = context.settings.chunk_tokens
    wanted = prompt + output
    shape = canonical.spans(len(prompt), len(output), chunk)
    done = context.prepare(wanted, shape)
    if done == len(wanted) and not context.has_logits:
        context.drop_last_span()
        done = len(context.tokens)
    request.event(evaluated=done, reused=done)
    for length in shape[len(context.spans) :]:
        context.evaluate(wanted[done : done + length])
        done += length
        request.event(evaluated=done)
        yield


def prefill(context: Context, request: Request) -> Steps:
    """Op `prefill {prompt}`: fill the cache; a caller that has met the peer's blocks cancels it half-way."""
    prompt = _token_ids(context, request.params["prompt"], least=1)
    _check_fits(context, len(prompt), 0)
    yield from evaluate_prompt(context, request, prompt, [])
    request.reply(evaluated=len(prompt))


def generate(context: Context, request: Request) -> Steps:
    """Op `generate {prompt, output, sampling, max_tokens, export_kv}`: extend a Generation token by token.

    Events: `evaluated` after each span, `cells` with the KV blocks as bulk (if asked, before the first token),
    `token` with its bytes as bulk (`logprob` and `top`, too, if asked). `max_tokens` counts the given output, too.
    """
    params = request.params
    prompt = _token_ids(context, params["prompt"], least=1)
    output = _token_ids(context, params["output"], least=0)
    max_tokens = int(params["max_tokens"])
    _check_fits(context, len(prompt), max(max_tokens, len(output)))
    sampler = Sampler(context, Sampling.model_validate(params["sampling"]), prompt)
    try:
        for token in output:
            sampler.accept(token)
        yield from evaluate_prompt(context, request, prompt, output)
        if params.get("export_kv"):
            request.event(export_blocks(context, len(prompt)), cells=len(prompt))
        yield from _decode(context, request, sampler, output, max_tokens)
    finally:
        sampler.close()


def _decode(context: Context, request: Request, sampler: Sampler, output: list[int], max_tokens: int) -> Steps:
    position = len(output)
    while position < max_tokens:
        token = sampler.draw(position)
        is_end, piece = context.model.is_end(token), context.model.piece(token)
        request.event([piece], position=position, token=token, is_end=is_end, **sampler.logprobs(token))
        if is_end:
            request.reply(reason="stop")
            return
        position += 1
        yield
        if position < max_tokens:
            context.evaluate([token])
            yield
    request.reply(reason="length")


def export_blocks(context: Context, num_tokens: int) -> list[bytes]:
    """The first `num_tokens` cells as blocks of one chunk each, in order."""
    state, chunk = context.read_state(), context.settings.chunk_tokens
    count = canonical.num_blocks(num_tokens, chunk)
    return [kv.cut_block(state, *canonical.block_range(i, num_tokens, chunk)) for i in range(count)]


def splice(context: Context, request: Request) -> None:
    """Op `splice {prompt, first_block}` with blocks `first_block…` as bulk: complete the cache of a prompt."""
    prompt = _token_ids(context, request.params["prompt"], least=1)
    chunk, first = context.settings.chunk_tokens, int(request.params["first_block"])
    cell_bytes = context.bytes_per_token
    blocks: list[tuple[int, bytes]] = []
    offset = 0
    for index in range(first, canonical.num_blocks(len(prompt), chunk)):
        begin, end = canonical.block_range(index, len(prompt), chunk)
        size = (end - begin) * cell_bytes
        blocks.append((end - begin, request.bulk[offset : offset + size]))
        offset += size
    context.splice(prompt, canonical.spans(len(prompt), 0, chunk), blocks)
    request.reply(tokens=len(prompt))


def bench(context: Context, request: Request) -> Steps:
    """Op `bench {prompt_tokens, decode_tokens}`: rates of an empty cache, in tokens a second."""
    num_prompt, num_decode = int(request.params["prompt_tokens"]), int(request.params["decode_tokens"])
    _check_fits(context, num_prompt, num_decode)
    tokens = _any_tokens(context, 0, num_prompt + num_decode)
    context.clear()
    started = time.perf_counter()
    yield from evaluate_prompt(context, request, tokens[:num_prompt], [])
    prefilled = time.perf_counter()
    for token in tokens[num_prompt:]:
        context.evaluate([token])
        yield
    ended = time.perf_counter()
    context.clear()
    request.reply(
        prefill_tok_s=num_prompt / (prefilled - started), decode_tok_s=num_decode / max(ended - prefilled, 1e-9)
    )


def time_spans(context: Context, request: Request) -> Steps:
    """Op `time {spans, past, threads}`: seconds of each of these batches, one after the other behind `past` tokens."""
    spans, past = [int(n) for n in request.params["spans"]], int(request.params.get("past", 0))
    _check_fits(context, past + sum(spans), 0)
    context.set_threads(int(request.params["threads"]))
    context.clear()
    seconds: list[float] = []
    for num_tokens in [*canonical.spans(past, 0, context.settings.chunk_tokens), *spans]:
        tokens = _any_tokens(context, len(context.tokens), num_tokens)
        started = time.perf_counter()
        context.evaluate(tokens)
        seconds.append(time.perf_counter() - started)
        yield
    context.clear()
    request.reply(seconds=seconds[-len(spans) :])


def _any_tokens(context: Context, first: int, count: int) -> list[int]:
    """Any ids will do for speed; a spread over the vocabulary keeps the embedding rows from staying in cache."""
    return [(i * 7919) % context.model.num_vocab for i in range(first, first + count)]


def _token_ids(context: Context, values: Sequence[int], *, least: int) -> list[int]:
    """The ids, when every one is of the vocabulary: llama.cpp aborts the process on others."""
    ids, count = [int(value) for value in values], context.model.num_vocab
    if len(ids) < least:
        raise RequestError("the prompt has no tokens; send some text")
    if (wrong := next((i for i in ids if not 0 <= i < count), None)) is not None:
        raise RequestError(f"token id {wrong} is not in the vocabulary of {count}; use the model's own tokenizer")
    return ids


def _check_fits(context: Context, num_prompt: int, num_output: int) -> None:
    limit = context.settings.context_tokens
    if num_prompt + num_output > limit:
        raise ContextLengthError(
            f"{num_prompt} prompt tokens and {num_output} answer tokens exceed the context of {limit};"
            " shorten the prompt, ask for fewer tokens, or let it be reduced"
        )
