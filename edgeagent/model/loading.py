"""How a choice is loaded: the worker's settings, how many sequences it holds, and the limits it runs under. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import EngineError
from edgeagent.core.hardware import Profile
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.local import LoadSettings
from edgeagent.model.budget import memory_of, sequences_within
from edgeagent.model.drafts import find_draft
from edgeagent.model.fence import Load, fence
from edgeagent.model.select import Choice
from edgeagent.model.store import StoredVariant
from edgeagent.resource.capability import ENGINE


@dataclass(frozen=True, slots=True)
class Loading:
    """`memory_bytes` is the worker's peak with all its sequences, `single_bytes` with one."""

    settings: LoadSettings
    limits: WorkerLimits
    memory_bytes: int
    single_bytes: int


def loading_of(
    chosen: StoredVariant,
    choice: Choice,
    profile: Profile,
    config: EngineConfig,
    threads: int,
    memory_bytes: int,
    adapter_bytes: int = 0,
    drafts: Sequence[StoredVariant] = (),
) -> Loading:
    """`drafts` are the files of a draft model that are here: one is loaded too, in memory that is left.

    `memory_bytes` is for the models, `adapter_bytes` were left aside for LoRA adapters.

    Raises EngineError when llama.cpp does not run here.
    """
    shape = chosen.card.shape(chosen.variant)
    sequence_bytes = shape.kv_bytes_per_token(choice.kv_type) * choice.context_tokens
    sequences = sequences_within(config.sequences, choice.memory_bytes, sequence_bytes, memory_bytes)
    settings = _settings(chosen, choice, profile, config, threads, sequences)
    total = memory_of(sequences, choice.memory_bytes, sequence_bytes)
    single, file_bytes, num_contexts = choice.memory_bytes, chosen.bytes, 1
    setup = replace(choice.option.placement.setup, kv_type=choice.kv_type)
    if draft := find_draft(chosen, setup, drafts if settings.speculation else (), memory_bytes - total):
        settings = replace(settings, draft_path=draft.path)
        total, single = total + draft.memory_bytes, single + draft.memory_bytes
        file_bytes, num_contexts = file_bytes + draft.file_bytes, 2
    total, single = total + adapter_bytes, single + adapter_bytes
    if settings.gpu_layers:
        return Loading(settings, WorkerLimits(nice=config.nice), total, single)
    load = Load(
        forecast_bytes=total,
        file_bytes=file_bytes,
        sequence_bytes=sequence_bytes,
        vocab=shape.vocab,
        chunk_tokens=config.chunk_tokens,
        threads=threads,
        is_mapped=setup.loading == "mapped",
        num_contexts=num_contexts,
    )
    return Loading(settings, fence(load, nice=config.nice), total, single)


def safe_settings(profile: Profile) -> Mapping[str, bool]:
    """The engine's switches that were tried here and work. Raises EngineError when llama.cpp does not run here."""
    engine = profile.engine(ENGINE)
    if engine is None or not engine.usable:
        reason = engine.probe.reason if engine else "it was never probed"
        raise EngineError(f"llama.cpp does not run on this machine ({reason}); run 'edgeagent doctor'")
    return engine.probe.settings


def _settings(
    chosen: StoredVariant, choice: Choice, profile: Profile, config: EngineConfig, threads: int, sequences: int
) -> LoadSettings:
    safe, placement = safe_settings(profile), choice.option.placement
    loading = placement.setup.loading
    return LoadSettings(
        path=str(chosen.path),
        variant_sha256=chosen.sha256,
        context_tokens=choice.context_tokens,
        kv_type=choice.kv_type if safe["flash_attention"] else "f16",
        flash_attention=safe["flash_attention"],
        threads=threads,
        extra_buffers=safe["extra_buffers"] and loading != "paged",
        chunk_tokens=config.chunk_tokens,
        load_mode="read" if loading == "read" else "map",
        gpu_layers=placement.gpu_layers,
        experts_on_cpu=placement.experts_on_cpu,
        sequences=sequences,
        prune_share=config.prune_share,
        speculation=config.speculation == "auto",
    )
