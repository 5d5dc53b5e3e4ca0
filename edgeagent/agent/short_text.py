"""A short greedy text of the local model, for the machine's own use: a decision, a summary."""

import contextlib
from collections.abc import Sequence
from typing import Literal

from edgeagent.core.chat import Message
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.admission import Urgency
from edgeagent.model.resident import Resident

Purpose = Literal["decision", "summary"]


async def short_text(
    resident: Resident,
    messages: Sequence[Message],
    urgency: Urgency,
    purpose: Purpose,
    *,
    max_tokens: int,
    grammar: str | None = None,
) -> str:
    """The answer to `messages`; the caller has a turn at the engine. Raises EngineError, RequestError (a head alone).

    What is evaluated for a summary is read once, so it is not kept outside of the worker, where it would be written to
    disk and outlive what is forgotten.
    """
    local = resident.whole
    prompt = await local.encode([{"role": m.role, "content": m.content} for m in messages])
    generation = Generation(purpose, resident.variant.sha256 or "", prompt, Sampling(grammar=grammar), max_tokens)
    async with contextlib.aclosing(local.generate(generation, urgency, keep=purpose != "summary")) as steps:
        pieces = [step.piece async for step in steps if isinstance(step, TokenStep) and not step.is_end]
    return b"".join(pieces).decode(errors="replace")
