"""How surprising each token of a text is to the model: for texts that are stored, once, when they are."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeagent.execution.llama.jobs import Steps, claim_free
from edgeagent.execution.llama.library import llama

if TYPE_CHECKING:
    from edgeagent.execution.llama.context import Context
    from edgeagent.execution.llama.slots import Slot
    from edgeagent.execution.worker import Request

MAX_TEXT_TOKENS = 1024
"""Of one text, and no more than the context holds: stored chunks have a quarter of that. What follows has no figure."""


def surprisal(context: "Context", request: "Request") -> Steps:
    """Op `surprisal {texts}`: of each text `[bytes, bits]` of every token, each predicted from those before it.

    Replies `tokens`, a list a text. A first token that nothing comes before (the model has no begin token) has no
    bits: None. It has the engine to itself for one text's chunk at a time, in the slot that nobody used for longest.
    """
    texts = [str(text) for text in request.params["texts"]]
    most = min(MAX_TEXT_TOKENS, context.settings.context_tokens - 1)  # a begin token comes before
    slot = claim_free(context, [], [])
    found: list[list[list[float | None]]] = []
    try:
        for text in texts:
            slot.clear()
            tokens = context.model.tokenize(text, add_special=False, parse_special=False)[:most]
            bits: list[float | None] = []
            for done in _evaluated(context, slot, tokens, bits):
                request.event(done=done)
                yield
            sizes = [len(context.model.piece(token)) for token in tokens]
            found.append([[size, told] for size, told in zip(sizes, bits, strict=True)])
    finally:
        slot.clear()
        slot.release()
    request.reply(tokens=found)


def _evaluated(context: "Context", slot: "Slot", tokens: list[int], bits: list[float | None]) -> Iterator[int]:
    """Fills `bits` chunk by chunk; tokens that have theirs."""
    begin = [int(llama().llama_vocab_bos(context.model.vocab))] if context.model.adds_bos else []
    if not begin and tokens:
        bits.append(None)
    given, wanted = begin + tokens, (tokens if begin else tokens[1:])
    chunk, done = context.settings.chunk_tokens, 0
    while done < len(wanted):
        part = given[done : min(done + chunk, len(wanted))]
        row = slot.evaluate(part, all_logits=True)
        bits += _bits(context, row, wanted[done : done + len(part)])
        done += len(part)
        yield done


def _bits(context: "Context", row: int, wanted: Sequence[int]) -> list[float | None]:
    """Of each wanted token, minus the binary logarithm of its probability in the batch's rows from `row` on."""
    import numpy as np

    from edgeagent.execution.llama.perplexity import log_softmax

    rows = [llama().llama_get_logits_ith(context.handle, row + i) for i in range(len(wanted))]
    logits = np.stack([np.ctypeslib.as_array(found, (context.model.num_vocab,)) for found in rows])
    told = log_softmax(logits)[np.arange(len(wanted)), list(wanted)]
    return [round(float(-value) / math.log(2), 3) for value in told]
