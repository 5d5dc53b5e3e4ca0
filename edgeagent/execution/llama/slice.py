"""Writes one stage of a model to a GGUF file of its own: head, middle, tail, or the output head alone.

Each is a whole model to llama.cpp, of fewer layers. What it demands beyond a stage's own weights costs little: the
final norm, in a head; and a token table, which a tail has anyway, because llama.cpp takes that for the output head
where there is no other (tied heads). So an output head of its own goes into a tail under the token table's name. A
middle has the table as a head has, and never looks into it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeagent.core.errors import RequestError
from edgeagent.core.stages import SOURCE_KEY, Cut
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.rewriting import BLOCK, Copy, Survivors, architecture_of, rewrite
from edgeagent.execution.worker import Request

if TYPE_CHECKING:
    from gguf import GGUFReader

TOKEN_TABLE, OUTPUT_HEAD = "token_embd.weight", "output.weight"


def slice_file(request: Request) -> Steps:
    """Op `slice {source, target, begin, end, sha256}`: one tensor a step, each an event. Replies the layers.

    What may be cut is the caller's to know (`model.slicing`); `sha256` of the source goes into the file, with the
    layers. Raises RequestError for layers that the source does not have.
    """
    from gguf import GGUFReader

    p = request.params
    reader = GGUFReader(str(p["source"]))
    _, layers = architecture_of(reader)
    cut = Cut.of(int(p["begin"]), int(p["end"]), layers)
    survivors = Survivors(layers, [i for i in range(layers) if i not in _blocks(cut)])
    extra: dict[str, str | int] = {SOURCE_KEY: str(p["sha256"]), **cut.metadata()}
    yield from rewrite(request, reader, survivors, list(_copies(reader, cut, survivors)), extra)
    request.reply(layers=len(survivors.old))


def _blocks(cut: Cut) -> range:
    """The blocks of the file. llama.cpp knows no model without any: the output head has one that changes nothing."""
    return range(1) if cut.is_output else range(cut.begin, cut.end)


def _copies(reader: "GGUFReader", cut: Cut, survivors: Survivors) -> Iterator[Copy]:
    names = {tensor.name for tensor in reader.tensors}
    if TOKEN_TABLE not in names:
        raise RequestError("this file has no token table; it cannot be cut into stages")
    for tensor in reader.tensors:
        if tensor.name == OUTPUT_HEAD:
            if not cut.ends_inside:
                yield Copy(TOKEN_TABLE, tensor)
        elif tensor.name == TOKEN_TABLE:
            if cut.ends_inside or OUTPUT_HEAD not in names:
                yield Copy(TOKEN_TABLE, tensor)
        elif (name := survivors.rename(tensor.name)) is not None:
            yield Copy(name, tensor, is_zero=cut.is_output and name.startswith(BLOCK))
