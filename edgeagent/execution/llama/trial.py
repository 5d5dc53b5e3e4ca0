"""What an engine answers under given settings, for comparison with the answers under others. Runs inside a worker."""

import ctypes
import math
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import backend_devices, listening, llama, supports
from edgeagent.execution.llama.model import Model
from edgeagent.execution.worker import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHT_BUFFER = re.compile(r"(\S+) model buffer size")
"""As llama.cpp's loader logs where it put weights: `CPU_Mapped`, `CPU_REPACK`, `AMX`, `CUDA0`."""


@dataclass(slots=True)
class Readings:
    """Of every position of a text: the likeliest next token, and how surprising the real one was (nats)."""

    top1: list[int] = field(default_factory=list)
    surprise: list[float] = field(default_factory=list)
    is_finite: bool = True

    def add(self, logits: "NDArray[np.float32]", following: int | None) -> None:
        import numpy as np

        if not np.isfinite(logits).all():
            self.is_finite = False
            self.top1.append(-1)
            return
        self.top1.append(int(logits.argmax()))
        if following is not None:
            shifted = logits.astype(np.float64) - logits.max()
            self.surprise.append(float(math.log(np.exp(shifted).sum()) - shifted[following]))


def trial(request: Request) -> None:
    """Op `trial {path, text, batch_tokens, single_tokens, …settings}`: load the model, then read the text with it.

    The first `batch_tokens` are read in chunks and the next `single_tokens` one by one: the kernels differ. A shorter
    text is read as far as it goes, half of it in chunks.
    """
    p = request.params
    gpu_layers = int(p["gpu_layers"])
    with listening() as log:
        model = Model(
            str(p["path"]),
            extra_buffers=bool(p["extra_buffers"]),
            gpu_layers=gpu_layers,
            load_mode=str(p["load_mode"]),
        )
    tokens = model.tokenize(str(p["text"]), add_special=True, parse_special=False)
    num_batch, num_single = _shares(len(tokens), int(p["batch_tokens"]), int(p["single_tokens"]))
    settings = ContextSettings(
        context_tokens=num_batch + num_single,
        kv_type=str(p["kv_type"]),
        flash_attention=bool(p["flash_attention"]),
        threads=int(p["threads"]),
        chunk_tokens=min(num_batch, int(p["chunk_tokens"])),
        offload=gpu_layers > 0,
    )
    readings = read_text(Context(model, settings), tokens[: num_batch + num_single], num_batch)
    request.reply(
        (),
        top1=readings.top1,
        nll=sum(readings.surprise) / max(1, len(readings.surprise)),
        is_finite=readings.is_finite,
        buffers=WEIGHT_BUFFER.findall("".join(log)),
        model_bytes=int(llama().llama_model_size(model.handle)),
        **memory_facts(str(p["path"])),
    )


def features(request: Request) -> None:
    """Op `features`: what this build can do at all, and the devices beside the CPU it sees."""
    devices = [{"name": name, "description": text} for name, text in backend_devices()]
    request.reply(gpu_offload=supports("gpu_offload"), mlock=supports("mlock"), mmap=supports("mmap"), devices=devices)


def read_text(context: Context, tokens: Sequence[int], num_batch: int) -> Readings:
    """Read all tokens, the first `num_batch` of them in chunks."""
    found, chunk, done, slot = Readings(), context.settings.chunk_tokens, 0, context.slots[0]
    while done < len(tokens):
        length = min(chunk, num_batch - done) if done < num_batch else 1
        slot.evaluate(tokens[done : done + length], all_logits=True)
        for i in range(length):
            position = done + i
            following = tokens[position + 1] if position + 1 < len(tokens) else None
            found.add(_logits(context, i), following)
        done += length
    return found


def memory_facts(path: str) -> dict[str, int | bool]:
    """What the kernel says of this process, not what the library was asked for: locked bytes, and the mapping."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "locked_bytes": int(status["VmLck"].split()[0]) * 1024,
        "may_lock_bytes": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "is_mapped": str(Path(path).resolve()) in Path("/proc/self/maps").read_text(),
    }


def _shares(num_tokens: int, batch: int, single: int) -> tuple[int, int]:
    if num_tokens < batch + single:
        return num_tokens - num_tokens // 2, num_tokens // 2
    return batch, single


def _logits(context: Context, index: int) -> "NDArray[np.float32]":
    import numpy as np

    row = llama().llama_get_logits_ith(context.handle, index)
    pointer = ctypes.cast(row, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (context.model.num_vocab,))
