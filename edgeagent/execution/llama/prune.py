"""Writes a GGUF file with fewer layers."""

from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.rewriting import Copy, Survivors, architecture_of, rewrite
from edgeagent.execution.worker import Request


def prune(request: Request) -> Steps:
    """Op `prune {source, target, dropped}`: one tensor a step, each an event. Replies the layers that are left."""
    from gguf import GGUFReader

    reader = GGUFReader(str(request.params["source"]))
    _, layers = architecture_of(reader)
    survivors = Survivors(layers, [int(i) for i in request.params["dropped"]])
    kept = [Copy(name, t) for t in reader.tensors if (name := survivors.rename(t.name)) is not None]
    yield from rewrite(request, reader, survivors, kept)
    request.reply(layers=len(survivors.old))
