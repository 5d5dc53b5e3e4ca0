"""Writes a GGUF file out of another one's tensors: blocks left out and renumbered, every byte of weights as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor of the new file: the bytes of one of the old file, or as many zeros (which are zero in every type)."""

    name: str
    tensor: "ReaderTensor"
    is_zero: bool = False


def architecture_of(reader: "GGUFReader") -> tuple[str, int]:
    """The file's architecture and number of layers."""
    name = str(reader.fields["general.architecture"].contents())
    return name, int(reader.fields[f"{name}.block_count"].contents())


def rewrite(
    request: Request,
    reader: "GGUFReader",
    survivors: Survivors,
    tensors: Sequence[Copy],
    extra: Mapping[str, str | int] | None = None,
) -> Steps:
    """Write `tensors` to the request's `target`, one a step, each an event; `extra` keys join those of the old file.

    Raises EngineError for a file that cannot be written, or whose blocks are not all of one chain.
    """
    from gguf import GGUFWriter

    if any("nextn." in tensor.name for tensor in reader.tensors):
        raise EngineError("this file has layers that predict several tokens ahead; such models cannot be cut")
    architecture, layers = architecture_of(reader)
    target = str(request.params["target"])
    writer = GGUFWriter(target, architecture)
    writer.data_alignment = reader.alignment
    for key, field in reader.fields.items():
        _copy_key(writer, key, field, architecture, layers, survivors)
    for key, value in (extra or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for copy in tensors:
        data = copy.tensor.data
        writer.add_tensor_info(copy.name, data.shape, data.dtype, data.nbytes, copy.tensor.tensor_type)
    try:
        yield from _write(request, writer, tensors)
    except OSError as error:
        raise EngineError(f"{target} cannot be written ({error.strerror}); check the disk") from None
    finally:
        writer.close()


def _write(request: Request, writer: "GGUFWriter", tensors: Sequence[Copy]) -> Steps:
    import numpy as np

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, copy in enumerate(tensors, 1):
        data = copy.tensor.data  # from the mapped file, page by page
        writer.write_tensor_data(np.zeros_like(data) if copy.is_zero else data)
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
