"""Has the local model write a summary of a conversation's old turns, and keeps it where a memory is."""

from collections.abc import Sequence

from edgeagent.agent.rolling import STEP_QUESTIONS, Cut, lines_of
from edgeagent.agent.short_text import short_text
from edgeagent.agent.stored import Stored
from edgeagent.agent.summary import MAX_TOKENS, summary_in, to_sum_up
from edgeagent.core.chat import Message
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

    None when there is too little to sum up, or nothing came of it. It is not kept when something was forgotten since
    the conversation began. The caller has a turn at the engine.
    """
    if not cuts or resident.head is not None:
        return None
    newest = cuts[0]
    since = await stored.since(cuts) if stored else None
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
    asked = to_sum_up(lines_of(messages), earlier)
    text = summary_in(await short_text(resident, asked, urgency, "summary", max_tokens=MAX_TOKENS))
    if text is not None and stored is not None and since is not None:
        await stored.keep_summary(newest, text, since)
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
