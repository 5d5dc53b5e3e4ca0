"""Measures what a model's engine leaves to one job more beside the answers that it writes."""

from edgeagent.model.recipe import output_share
from edgeagent.model.resident import Resident
from edgeagent.resource.sharing import Batches, Slowdown, slowdowns

SIZES = (1, 2, 3, 4, 6, 8, 16)
ROUNDS = 2
"""Whatever else runs can only slow one down: the quickest counts."""


async def measure_beside(resident: Resident) -> tuple[Slowdown, ...]:
    """Beside 1, 2, … answers. Takes some 50 tokens' time, and the engine for itself. Empty where only one answer is
    written at a time, or the context is too short to measure in.

    Raises EngineError, and what `Admission.whole` raises.
    """
    local, facts = resident.whole, await resident.whole.facts()
    settings, chunk = local.settings, local.settings.chunk_tokens
    spans = [chunk, *SIZES * ROUNDS]
    if settings.sequences < 2 or chunk < SIZES[-1] or chunk + sum(spans) > facts.context_tokens:
        return ()
    async with local.admission.whole():
        chunk_s, *small = await local.time_batches(spans, past=chunk)
    rows_s = {size: min(small[i :: len(SIZES)]) for i, size in enumerate(SIZES) if size < chunk}
    head_s = output_share(resident.card, resident.variant) * rows_s[1]
    batches = Batches(rows_s, chunk, chunk_s, head_s)
    known = settings.invariance
    return slowdowns(batches, settings.sequences, known.decode_batch, is_cut=known.free_prefill)
