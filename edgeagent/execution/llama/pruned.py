"""Fills a cache with a whole prompt, drops what its end attends to least, and goes on from there."""

from collections.abc import Generator, Sequence
from typing import Any

from edgeagent.core.generation import Pruning
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.jobs import Granted, Keeper, Want, fill
from edgeagent.execution.llama.slots import Slot
from edgeagent.execution.llama.watch import attention_of
from edgeagent.execution.pruning import WINDOW, weakest
from edgeagent.execution.scheduler import Kind
from edgeagent.execution.worker import Request


def pruning_of(parameters: dict[str, Any]) -> Pruning | None:
    """Of op `generate`."""
    if (wanted := parameters.get("pruning")) is None:
        return None
    return Pruning(int(wanted["num_dropped"]), tuple((int(a), int(b)) for a, b in wanted["protected"]))


def fill_pruned(
    context: Context, slot: Slot, request: Request, tokens: tuple[Sequence[int], Sequence[int]], pruning: Pruning
) -> Generator[Want, Granted, int]:
    """The row of the newest token's logits. `tokens` are prompt and output so far.

    The output is evaluated one by one behind the pruned prompt, as it was when it was drawn. Event `pruned` with the
    number of dropped positions. Whoever resumes or repeats this prompt profits from its cells before they go.
    """
    prompt, output = tokens
    row = yield from fill(slot, request, list(prompt), slot.canonical_spans(len(prompt), 0))
    Keeper(slot, request, request.params.get("keep_from")).keep_when_due()
    spans = weakest(attention_of(context, slot, WINDOW), pruning.num_dropped, pruning.protected)
    slot.prune(spans)
    request.event(pruned=sum(end - begin for begin, end in spans))
    for token in output:
        granted = yield Want(slot, Kind.DECODE, [token])
        row = granted.row
    return row
