"""A loaded GGUF file: its facts, its vocabulary, its chat template."""

import ctypes
from pathlib import Path

from edgeagent.core.errors import ModelFileError, OutOfMemoryError, RequestError
from edgeagent.core.stages import Padding
from edgeagent.execution.confine import is_memory_bounded
from edgeagent.execution.last_words import NO_MEMORY
from edgeagent.execution.llama.library import expert_overrides, listening, llama, release
from edgeagent.execution.llama.padding import load as load_padded

MAX_PIECE_BYTES = 256
MAX_METADATA_BYTES = 1024
LOAD_MODES = {"read": 0, "map": 1, "map and lock": 3}
"""llama.h, `enum llama_load_mode`."""


class Model:
    """Weights and vocabulary. Raises ModelFileError if llama.cpp refuses the file.

    On the CPU unless `gpu_layers` says otherwise (llama.cpp's own default is all layers, whatever the GPU computes);
    with `experts_on_cpu` the experts' tensors stay there all the same. `load_mode` is one of `LOAD_MODES`
    (None: llama.cpp's choice). With `padding` it has a layer more (`padding`).
    """

    def __init__(
        self,
        path: str,
        *,
        extra_buffers: bool,
        gpu_layers: int = 0,
        load_mode: str | None = None,
        experts_on_cpu: bool = False,
        padding: Padding | None = None,
    ) -> None:
        lib = llama()
        if not Path(path).is_file():
            raise ModelFileError(f"model file {path} is not there; pull the model again")
        params = lib.llama_model_default_params()
        params.use_extra_bufts = extra_buffers
        params.n_gpu_layers = gpu_layers
        if load_mode is not None:
            _set_load_mode(params, load_mode)
        overrides = expert_overrides() if experts_on_cpu else None  # kept until the model is loaded
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p) if overrides else None
        with listening() as told:
            if padding is None:
                self.handle = lib.llama_model_load_from_file(path.encode(), params)
            else:
                self.handle = load_padded(path, padding, params)
        if not self.handle:
            if is_memory_bounded() and NO_MEMORY.search("".join(told).encode()):
                raise OutOfMemoryError(f"no memory to load {path}; use a smaller variant")
            raise ModelFileError(f"llama.cpp cannot load {path}; pull the model again")
        self._vocab = lib.llama_model_get_vocab(self.handle)
        self._pieces: dict[int, bytes] = {}
        self.template_fault: str | None = None
        """Why the file's chat template cannot be used at all, once that is known."""
        self.num_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.layers = int(lib.llama_model_n_layer(self.handle))
        self.width = int(lib.llama_model_n_embd(self.handle))
        self.heads = int(lib.llama_model_n_head(self.handle))
        self.kv_heads = int(lib.llama_model_n_head_kv(self.handle))
        self.context_train = int(lib.llama_model_n_ctx_train(self.handle))
        self.window = int(lib.llama_model_n_swa(self.handle))
        """Tokens that the layers with a sliding window see; 0: there are none."""
        self.has_window = self.window > 0

    def close(self) -> None:
        """Free it, when no context uses it any more. A worker's own model goes with its process."""
        llama().llama_model_free(self.handle)

    @property
    def vocab(self) -> object:
        return self._vocab

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; with `parse_special`, control tokens written in it are recognised."""
        lib = llama()
        raw = text.encode(errors="replace")  # a lone surrogate is no character
        capacity = len(raw) + 8
        buffer = (lib.llama_token * capacity)()
        count = lib.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, add_special, parse_special)
        if count < 0:
            raise RequestError(f"a text of {len(raw)} bytes cannot be tokenized; shorten it")
        return [int(token) for token in buffer[:count]]

    def piece(self, token: int) -> bytes:
        """The bytes of one token; control tokens are empty."""
        found = self._pieces.get(token)
        if found is None:
            buffer = ctypes.create_string_buffer(MAX_PIECE_BYTES)
            count = llama().llama_token_to_piece(self._vocab, token, buffer, MAX_PIECE_BYTES, 0, False)
            found = self._pieces[token] = buffer.raw[: max(0, count)]
        return found

    def metadata(self, key: str) -> str | None:
        """What the file says under a key, as text; None when it says nothing."""
        buffer = ctypes.create_string_buffer(MAX_METADATA_BYTES)
        count = llama().llama_model_meta_val_str(self.handle, key.encode(), buffer, MAX_METADATA_BYTES)
        return buffer.value.decode(errors="replace") if count >= 0 else None

    def is_end(self, token: int) -> bool:
        return bool(llama().llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        return bool(llama().llama_vocab_is_control(self._vocab, token))

    @property
    def bos_text(self) -> str:
        return self._text(llama().llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._text(llama().llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(llama().llama_vocab_get_add_bos(self._vocab))

    def _text(self, token: int) -> str:
        return bytes(llama().llama_vocab_get_text(self._vocab, token)).decode() if token >= 0 else ""

    @property
    def chat_template(self) -> str | None:
        found = llama().llama_model_chat_template(self.handle, None)
        return bytes(found).decode(errors="replace") if found else None


def _set_load_mode(params: ctypes.Structure, mode: str) -> None:
    if release().has_load_mode:
        params.load_mode = LOAD_MODES[mode]
    else:
        params.use_mmap, params.use_mlock = mode != "read", mode == "map and lock"
