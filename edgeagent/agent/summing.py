"""Has the local model write a summary of a conversation's old turns, and keeps it where a memory is."""

import contextlib
from collections.abc import Sequence

from edgeagent.agent.rolling import MAX_SUMMARY_TOKENS, MIN_SUMMARY_WORDS, STEP_QUESTIONS, Cut, to_sum_up
from edgeagent.agent.stored import Stored
from edgeagent.core.chat import Message
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.admission import Urgency
from edgeagent.model.resident import Resident

MIN_OLD_TOKENS = 256
"""Fewer tokens of old turns are not worth a summary."""
MAX_OLD_TOKENS = 2048
"""What one summary reads, of half the context at most; longer turns are cut at their beginning."""


async def sum_up(
    said: Sequence[Message], cuts: Sequence[Cut], resident: Resident, stored: Stored | None, urgency: Urgency
) -> str | None:
    """A summary up to the newest cut, made from an earlier one and the turns since, where there is one.

    None when there is too little to sum up, or nothing came of it. The caller has a turn at the engine.
    """
    if not cuts or resident.head is not None:
        return None
    newest = cuts[0]
    earlier, begin = await _earlier(cuts[1:], stored)
    messages = [m for m in said[begin : newest.num_messages] if m.role != "system"]
    local = resident.whole
    counts = await local.count([m.content for m in messages])
    if sum(counts) < MIN_OLD_TOKENS and earlier is None:
        return None
    most = min(MAX_OLD_TOKENS, (await local.facts()).context_tokens // 2)
    while sum(counts) > most and len(messages) > STEP_QUESTIONS:
        messages, counts = messages[1:], counts[1:]
    if sum(counts) > most:
        messages = [_end_of(m, n, most // len(messages)) for m, n in zip(messages, counts, strict=True)]
    prompt = await local.encode([{"role": m.role, "content": m.content} for m in to_sum_up(messages, earlier)])
    generation = Generation(
        "summary", resident.variant.sha256 or "", prompt, Sampling(temperature=0.0), MAX_SUMMARY_TOKENS
    )
    async with contextlib.aclosing(local.generate(generation, urgency)) as steps:
        pieces = [step.piece async for step in steps if isinstance(step, TokenStep) and not step.is_end]
    text = " ".join(b"".join(pieces).decode(errors="replace").split())
    if len(text.split()) < MIN_SUMMARY_WORDS:
        return None
    if stored is not None:
        await stored.keep_summary(newest.key, newest.num_messages, text)
    return text


def _end_of(message: Message, num_tokens: int, most: int) -> Message:
    """The message, or what of its end has about so many tokens where it has more."""
    if num_tokens <= most:
        return message
    return message.model_copy(update={"content": message.content[-len(message.content) * most // num_tokens :]})


async def _earlier(cuts: Sequence[Cut], stored: Stored | None) -> tuple[str | None, int]:
    """The newest summary that is kept already, and how many messages it stands for."""
    for cut in cuts if stored else ():
        assert stored is not None
        if (text := await stored.summary(cut.key)) is not None:
            return text, cut.num_messages
    return None, 0
