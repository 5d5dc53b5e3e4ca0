"""What must hold between the keys of a model card. Pure; each check raises ValueError naming the key at fault."""

from edgeagent.core.cards import Architecture, HubSource, MadeSource, ModelCard, PrunedSource, Variant
from edgeagent.model.layout import parameters

PARAMETERS_TOLERANCE = 0.03
"""Published counts differ from the shape's by small tensors (rotary factors) and rounding, never by a layer."""


def check_shape(shape: Architecture, published: int) -> None:
    """The numbers of a decoder's shape fit each other, and its published parameter count."""
    if shape.heads % shape.kv_heads:
        raise ValueError(f"key 'architecture.kv_heads': {shape.kv_heads} does not divide {shape.heads} heads")
    _check_window(shape)
    if shape.experts is not None and shape.experts.used > shape.experts.count:
        raise ValueError(f"key 'architecture.experts.used': {shape.experts.used} of {shape.experts.count} experts")
    counted = parameters(shape)
    if abs(counted - published) > PARAMETERS_TOLERANCE * published:
        raise ValueError(f"key 'parameters': {published:,}, but the shape has {counted:,}")


def check_variant(card: ModelCard, variant: Variant, key: str) -> None:
    """The variant's origin exists, and its own keys fit it."""
    if isinstance(variant.source, MadeSource):
        _check_base(card, variant.source.variant, f"{key}.source.variant")
    if isinstance(variant.source, PrunedSource):
        _check_pruned(card, variant, variant.source.dropped, key)
    for file in (variant, *variant.companions):
        unseen = file.bytes is not None and file.sha256 is None
        if unseen and isinstance(file.source, HubSource) and not file.bytes_source:
            raise ValueError(f"key '{key}.bytes_source': is missing for {file.file}, whose size was read elsewhere")


def _check_window(shape: Architecture) -> None:
    if (shape.sliding_window is None) != (shape.window_pattern is None):
        raise ValueError("key 'architecture.window_pattern': comes with 'sliding_window', and only with it")
    if shape.window_pattern is not None and not 1 < shape.window_pattern <= shape.layers:
        raise ValueError(f"key 'architecture.window_pattern': {shape.window_pattern} of {shape.layers} layers")
    if shape.sliding_window is not None and not 0 < shape.sliding_window <= shape.context_tokens:
        raise ValueError(f"key 'architecture.sliding_window': {shape.sliding_window} of {shape.context_tokens} tokens")


def _check_base(card: ModelCard, name: str, key: str) -> None:
    base = card.variant(name)
    if base is None or isinstance(base.source, MadeSource):
        raise ValueError(f"key '{key}': '{name}' is not a variant that can be fetched")


def _check_pruned(card: ModelCard, variant: Variant, dropped: tuple[int, ...], key: str) -> None:
    if card.architecture is None:
        raise ValueError(f"key '{key}.source': only decoders are pruned by layers")
    layers = card.architecture.layers
    if len(set(dropped)) != len(dropped) or not all(0 <= number < layers for number in dropped):
        raise ValueError(f"key '{key}.source.dropped': {list(dropped)} are not different layers of {layers}")
    if variant.layers != layers - len(dropped):
        raise ValueError(f"key '{key}.layers': must be {layers - len(dropped)}, for {len(dropped)} are dropped")
