"""How a summary is asked for, and what of an answer counts as one. Pure: who asks the model is elsewhere."""

from collections.abc import Sequence

from edgeagent.core.chat import Message

ROLE = "You sum up conversations."
INSTRUCTION = (
    "Sum up the conversation above in at most three short sentences. Keep names, numbers, dates and what was decided."
)
MAX_TOKENS = 128
MAX_CHARS = 1200
MIN_WORDS = 5
"""Small models now and then go on with the conversation instead; such a text stands for nothing."""
LEAD = "Earlier in this conversation: "


def to_sum_up(lines: Sequence[str], earlier: str | None = None) -> list[Message]:
    """What a model is asked, to sum up who said what (one a line), behind an `earlier` summary of what came before."""
    told = "\n".join([*([f"{LEAD}{earlier}"] if earlier else []), *lines])
    return [Message(role="system", content=ROLE), Message(role="user", content=f"{told}\n\n{INSTRUCTION}")]


def summary_in(answer: str) -> str | None:
    """The summary that a model's answer is; None when it is none."""
    text = " ".join(answer.split())[:MAX_CHARS].rstrip()
    return text if len(text.split()) >= MIN_WORDS else None
