"""A model and its context's settings, as the parameters of op `load` or `load_stage` say."""

from edgeagent.core.stages import Padding
from edgeagent.execution.channel import Message
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.model import Model


def open_model(load: Message, padding: Padding | None = None) -> Model:
    """Raises ModelFileError, OutOfMemoryError."""
    return Model(
        str(load["path"]),
        extra_buffers=bool(load["extra_buffers"]),
        gpu_layers=_gpu_layers(load),
        load_mode=str(load.get("load_mode", "map")),
        experts_on_cpu=bool(load.get("experts_on_cpu")),
        padding=padding,
    )


def settings_for(model: Model, load: Message) -> ContextSettings:
    """Of one sequence, evaluated canonically."""
    return ContextSettings(
        context_tokens=min(int(load["context_tokens"]), model.context_train),
        kv_type=str(load["kv_type"]),
        flash_attention=bool(load["flash_attention"]),
        threads=int(load["threads"]),
        chunk_tokens=int(load["chunk_tokens"]),
        offload=_gpu_layers(load) > 0,
    )


def _gpu_layers(load: Message) -> int:
    return int(load.get("gpu_layers", 0))
