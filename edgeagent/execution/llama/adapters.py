"""LoRA adapters of a loaded model: which are in memory, and which one the next batch is evaluated with."""

import ctypes
from pathlib import Path

from edgeagent.core.errors import ModelFileError, OutOfMemoryError
from edgeagent.execution.confine import is_memory_bounded
from edgeagent.execution.last_words import NO_MEMORY
from edgeagent.execution.llama.library import listening, llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.loading import MAX_ADAPTERS

REASON = "failed to apply lora adapter: "
"""Before what llama.cpp's loader says is wrong with an adapter."""


class Adapters:
    """Adapters by key, which tells their content: the file's hash. The empty key is no adapter."""

    def __init__(self, model: Model, context: object) -> None:
        self._model = model
        self._context = context
        self._loaded: dict[str, object] = {}
        """Handles; the one used last is the last."""
        self._applied = ""

    def load(self, key: str, path: str, in_use: set[str]) -> None:
        """Have it in memory; older ones that are not `in_use` may go. Raises ModelFileError, OutOfMemoryError."""
        if not key:
            return
        handle = self._loaded.pop(key, None) or self._read(path)
        self._loaded[key] = handle
        for old in [k for k in self._loaded if k not in in_use | {key, self._applied}]:
            if len(self._loaded) > MAX_ADAPTERS:
                llama().llama_adapter_lora_free(self._loaded.pop(old))

    def apply(self, key: str) -> None:
        """From the next batch on. llama.cpp plans its graphs anew for it, so each change costs time."""
        if key == self._applied:
            return
        self.apply_to(self._context, key)
        self._applied = key

    def apply_to(self, context: object, key: str) -> None:
        """The same for another context of the model."""
        lib, count = llama(), int(bool(key))
        handles = (lib.llama_adapter_lora_p_ctypes * count)(*([self._loaded[key]] if key else []))
        lib.llama_set_adapters_lora(context, handles, count, (ctypes.c_float * count)(*([1.0] * count)))

    def _read(self, path: str) -> object:
        if not Path(path).is_file():
            raise ModelFileError(f"the adapter file {path} is not there; pull it again")
        with listening() as told:
            handle: object = llama().llama_adapter_lora_init(self._model.handle, path.encode())
        if handle:
            return handle
        text = "".join(told)
        if is_memory_bounded() and NO_MEMORY.search(text.encode()):
            raise OutOfMemoryError(f"no memory to load the adapter {path}; use a smaller variant")
        reason = text.partition(REASON)[2].partition("\n")[0] or "it cannot be read"
        raise ModelFileError(f"llama.cpp refuses the adapter {path}: {reason}; pull it again, or correct its card")
