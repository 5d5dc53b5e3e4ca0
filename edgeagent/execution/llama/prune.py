"""Writes a GGUF file with fewer layers: blocks left out and renumbered, every other byte of weights as it was."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.worker import Request

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter
    from gguf.gguf_reader import ReaderField, ReaderTensor

BLOCK = "blk."
DERIVED = frozenset({"general.architecture", "general.alignment"})
"""Keys the writer sets by itself."""


class Survivors:
    """Old block numbers to new ones."""

    def __init__(self, layers: int, dropped: Sequence[int]) -> None:
        wrong = [i for i in dropped if not 0 <= i < layers]
        if wrong or len(set(dropped)) >= layers:
            raise RequestError(f"layers {list(dropped)} cannot be left out of {layers}; name some of 0 to {layers - 1}")
        self.old = [i for i in range(layers) if i not in set(dropped)]
        self._new = {old: new for new, old in enumerate(self.old)}

    def rename(self, tensor: str) -> str | None:
        """The tensor's name in the new file; None when it is left out."""
        if not tensor.startswith(BLOCK):
            return tensor
        number, _, rest = tensor.removeprefix(BLOCK).partition(".")
        new = self._new.get(int(number))
        return None if new is None else f"{BLOCK}{new}.{rest}"


def prune(request: Request) -> Steps:
    """Op `prune {source, target, dropped}`: one tensor a step, each an event. Replies the layers that are left."""
    from gguf import GGUFReader, GGUFWriter

    p = request.params
    reader = GGUFReader(str(p["source"]))
    architecture = str(reader.fields["general.architecture"].contents())
    layers = int(reader.fields[f"{architecture}.block_count"].contents())
    survivors = Survivors(layers, [int(i) for i in p["dropped"]])
    writer = GGUFWriter(str(p["target"]), architecture)
    writer.data_alignment = reader.alignment
    for key, field in reader.fields.items():
        _copy_key(writer, key, field, architecture, layers, survivors)
    kept = list(_announce(writer, reader, survivors))
    try:
        yield from _write(request, writer, kept)
    except OSError as error:
        raise EngineError(f"{p['target']} cannot be written ({error.strerror}); check the disk") from None
    finally:
        writer.close()
    request.reply(layers=len(survivors.old))


def _write(request: Request, writer: "GGUFWriter", tensors: "Sequence[ReaderTensor]") -> Steps:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, tensor in enumerate(tensors, 1):
        writer.write_tensor_data(tensor.data)  # from the mapped file, page by page
        request.event(stage="writing", done=number, total=len(tensors))
        yield


def _copy_key(
    writer: "GGUFWriter", key: str, field: "ReaderField", architecture: str, layers: int, survivors: Survivors
) -> None:
    from gguf import GGUFValueType

    if key.startswith("GGUF.") or key in DERIVED:
        if key == "general.alignment":
            writer.add_custom_alignment(int(field.contents()))
        return
    value, kind = field.contents(), field.types[0]
    if key == f"{architecture}.block_count":
        value = len(survivors.old)
    elif key == f"{architecture}.leading_dense_block_count":
        value = sum(1 for old in survivors.old if old < value)
    if kind != GGUFValueType.ARRAY:
        writer.add_key_value(key, value, kind)
        return
    if key.startswith(f"{architecture}.") and len(value) == layers:
        value = [value[old] for old in survivors.old]  # one value a layer (heads, widths, windows)
    writer.add_key_value(key, value, kind, field.types[-1])


def _announce(writer: "GGUFWriter", reader: "GGUFReader", survivors: Survivors) -> "Iterator[ReaderTensor]":
    if any("nextn." in tensor.name for tensor in reader.tensors):
        raise EngineError("this file has layers that predict several tokens ahead; such models cannot be pruned")
    for tensor in reader.tensors:
        if (name := survivors.rename(tensor.name)) is not None:
            data = tensor.data
            writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
            yield tensor
