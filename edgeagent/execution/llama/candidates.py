"""The vocabulary as candidates of one draw: their logits, those a grammar takes, their log-probabilities."""

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgeagent.core.generation import Sampling
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.model import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Table: TypeAlias = NDArray[np.void]

FIRST_LOOK = 256
"""Candidates asked of the grammar before the whole vocabulary is: a grammar costs by the candidate."""
SMALLEST_LOGPROB = -9999.0
"""OpenAI's word for a token that cannot come; JSON has none for minus infinity."""


class HasLogits(Protocol):
    """A llama.cpp context that has evaluated a batch."""

    model: Model
    handle: object


def logits(context: HasLogits, row: int = -1) -> "Floats":
    """A view of the logits of a row of the newest batch (-1: its last), valid until the next evaluation."""
    pointer = llama().llama_get_logits_ith(context.handle, row)
    return _floats(ctypes.addressof(pointer.contents), context.model.num_vocab)


@functools.lru_cache(64)
def _floats(address: int, count: int) -> "Floats":
    """llama.cpp's buffer stays where it is for a long time, and making a view is dear."""
    import numpy as np

    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def likeliest(raw: "Floats", bias: Sequence[tuple[int, float]]) -> int:
    """The id that llama.cpp's bias and greedy parts would select, without its table of the whole vocabulary.

    `raw` is as before when this returns.
    """
    before = [(token, raw[token]) for token, _ in bias]
    for token, value in bias:
        raw[token] += value
    best = int(raw.argmax())  # the first of equals, as llama.cpp takes it
    for token, logit in reversed(before):
        raw[token] = logit
    return best


def adjusted(raw: "Floats", adjustments: Sequence[object]) -> "Floats":
    """`raw` after bias and penalties, which see every candidate."""
    import numpy as np

    table = whole(raw)
    for part in adjustments:
        _apply(part, table)
    by_id = np.empty(len(raw), dtype=np.float32)
    by_id[table["id"]] = table["logit"]
    return by_id


def whole(values: "Floats") -> "Table":
    """The whole vocabulary, by id."""
    import numpy as np

    return _table(np.arange(len(values)), values)


def allowed(values: "Floats", grammar: object, sampling: Sampling) -> "Table":
    """Those that the grammar takes and that can be drawn, most probable first; ids break ties.

    `min_p` counts from the best of them, before the other filters, so that the whole vocabulary need not be asked.
    """
    import numpy as np

    reach = _reach(sampling)
    look = min(FIRST_LOOK, len(values))
    ids = np.argpartition(values, len(values) - look)[-look:]
    found = _taken(ids, values, grammar)
    if not len(found) or found["logit"][0] - reach < values[ids].min():
        found = _taken(np.arange(len(values)), values, grammar)
    return found[found["logit"] >= found["logit"][0] - reach] if len(found) else found


def _reach(sampling: Sampling) -> float:
    """How far below the best candidate's logit one can be and still be drawn."""
    if sampling.temperature == 0:
        return 0.0
    return -math.log(sampling.min_p) if sampling.min_p else math.inf


def _taken(ids: "NDArray[np.intp]", values: "Floats", grammar: object) -> "Table":
    import numpy as np

    table = _table(ids, values[ids])
    _apply(grammar, table)
    table = table[np.isfinite(table["logit"])]
    ordered: Table = table[np.lexsort((table["id"], -table["logit"]))]
    return ordered


def selected(table: "Table", chain: object) -> int:
    """The id that a chain with a last, drawing part selects from these candidates."""
    data = _apply(chain, table)
    return int(data.data[data.selected].id)


def _table(ids: "NDArray[np.intp]", values: "Floats") -> "Table":
    import numpy as np

    table = np.zeros(len(ids), dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    table["id"], table["logit"] = ids, values
    return table


def _apply(part: object, table: "Table") -> ctypes.Structure:
    lib = llama()
    pointer = ctypes.cast(table.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    data: ctypes.Structure = lib.llama_token_data_array(pointer, len(table), -1, False)
    lib.llama_sampler_apply(part, ctypes.byref(data))
    return data


def logprobs(raw: "Floats", token: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural log-probability of `token`, and the `num_top` most probable with theirs, of unchanged logits."""
    import numpy as np

    wide = raw.astype(np.float64)
    wide -= wide.max()
    wide -= math.log(np.exp(wide).sum())
    wide = np.maximum(wide, SMALLEST_LOGPROB)
    best = np.argpartition(wide, -num_top)[-num_top:] if num_top else np.arange(0)
    ordered = best[np.lexsort((best, -wide[best]))]
    return float(wide[token]), [(int(t), float(wide[t])) for t in ordered]
