"""What this machine knows of a model beyond its card: variants made here, and what was measured here.

One file a model, `<models folder>/<model id>/overlay.json`, laid over the card when the registry is read. Perplexities
compare only where the text, the number of windows and their size are the same (a yardstick), so figures of another
yardstick than the card's replace the card's all together or not at all.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.core.cards import ModelCard, Quality, Sha256, Variant
from edgeagent.core.errors import ConfigError
from edgeagent.model import files
from edgeagent.model.cascade import Calibration
from edgeagent.model.registry import Registry

WIKITEXT_SHA256 = "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"
WIKITEXT = "WikiText-2 test"
"""The name that cards use for the text with this hash."""


class Measurement(BaseModel):
    """One variant, measured on one text. Rates and memory are those of serving with `kv_type` and `served_tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    sha256: Sha256
    bytes: int = Field(gt=0)
    perplexity: float = Field(gt=1)
    perplexity_error: float = Field(ge=0)
    """One standard error of the mean, carried over to perplexity."""
    reference: str
    """The variant that `mean_kl` and `top1` compare with."""
    mean_kl: float = Field(ge=0)
    top1: float = Field(ge=0, le=1)
    text: str
    text_sha256: Sha256
    chunks: int = Field(gt=0)
    context_tokens: int = Field(gt=0)
    positions: int = Field(gt=0)
    peak_rss_bytes: int = Field(gt=0)
    prefill_tok_s: float = Field(gt=0)
    decode_tok_s: float = Field(gt=0)
    threads: int = Field(gt=0)
    kv_type: str
    served_tokens: int = Field(gt=0)
    engine: str
    date: str

    @property
    def yardstick(self) -> str:
        """What perplexities must have in common to be compared, in the words that cards use."""
        name = WIKITEXT if self.text_sha256 == WIKITEXT_SHA256 else f"{self.text} ({self.text_sha256[:12]})"
        return f"{name}, {self.chunks} x {self.context_tokens} tokens"

    def quality(self) -> Quality:
        source = f"measured here: {self.yardstick}; against {self.reference}; {self.engine}, {self.date}"
        return Quality(perplexity=self.perplexity, source=source, mean_kl=self.mean_kl, top1=self.top1)


class Overlay(BaseModel):
    """Local facts of one model. `measurements` keeps the newest of each variant, `calibrations` of each pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    calibrations: tuple[Calibration, ...] = ()

    def with_variant(self, variant: Variant) -> "Overlay":
        others = tuple(v for v in self.variants if v.name != variant.name)
        return self.model_copy(update={"variants": (*others, variant)})

    def with_measurement(self, measurement: Measurement) -> "Overlay":
        others = tuple(m for m in self.measurements if m.variant != measurement.variant)
        return self.model_copy(update={"measurements": (*others, measurement)})

    def with_calibration(self, calibration: Calibration) -> "Overlay":
        own = (calibration.variant, calibration.larger)
        others = tuple(c for c in self.calibrations if (c.variant, c.larger) != own)
        return self.model_copy(update={"calibrations": (*others, calibration)})

    def calibration(self, variant: str, sha256: str | None, larger: str) -> Calibration | None:
        """That of this very file, chosen against `larger`; else one that was chosen against nobody."""
        own = {c.larger: c for c in self.calibrations if (c.variant, c.sha256) == (variant, sha256)}
        return own.get(larger) or own.get("")


def path_of(folder: Path, model_id: str) -> Path:
    return folder / model_id / "overlay.json"


def load(folder: Path, model_id: str) -> Overlay:
    """The model's overlay; an empty one when there is none. Raises ConfigError, naming the file and the key."""
    path = path_of(folder, model_id)
    try:
        return Overlay.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Overlay()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigError(f"overlay {path}: {key}: {first['msg']}; correct it or remove the file") from None
    except OSError as error:
        raise ConfigError(f"overlay {path} cannot be read ({error.strerror}); check its permissions") from None


def save(folder: Path, model_id: str, overlay: Overlay) -> None:
    """Replace the model's overlay, whole or not at all; call with the model locked."""
    path = path_of(folder, model_id)
    temporary = path.with_suffix(".tmp")
    content = json.dumps(overlay.model_dump(mode="json", exclude_none=True), indent=2)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def lay_over(registry: Registry, folder: Path) -> Registry:
    """The registry with what this machine knows. Raises ConfigError for an overlay that does not fit."""
    for card in registry.cards:
        if path_of(folder, card.id).exists():
            refresh(registry, folder, card.id)
    return registry


def refresh(registry: Registry, folder: Path, model_id: str) -> None:
    """Show what the model's overlay says now."""
    registry.amend(present(registry.shipped(model_id), load(folder, model_id), folder))


def present(card: ModelCard, overlay: Overlay, folder: Path) -> ModelCard:
    """The card with the overlay's variants whose files are still here, and figures of files that are still the same."""
    local = [v for v in overlay.variants if (folder / card.id / v.file).is_file()]
    names = {v.name: v for v in (*card.variants, *local)}
    known = [m for m in overlay.measurements if m.variant in names]
    return combine(card, local, [m for m in known if _is_same_file(folder, card, names[m.variant], m)])


def _is_same_file(folder: Path, card: ModelCard, variant: Variant, measurement: Measurement) -> bool:
    """A file that is gone may be made again; one of another content is another variant."""
    known = files.recall(folder / card.id / variant.file)
    return known is None or known.sha256 == measurement.sha256


def combine(card: ModelCard, local: Iterable[Variant], measurements: Iterable[Measurement]) -> ModelCard:
    """The card with these variants behind its own, and with the measurements that compare with each other. Pure."""
    own = {v.name for v in card.variants}
    variants = [*card.variants, *(v for v in local if v.name not in own)]
    chosen = {m.variant: m.quality() for m in comparable(card, list(measurements))}
    replaced = [v.model_copy(update={"quality": chosen.get(v.name, v.quality)}) for v in variants]
    return card.model_copy(update={"variants": tuple(replaced)})


def comparable(card: ModelCard, measurements: list[Measurement]) -> list[Measurement]:
    """Those of the newest yardstick that can stand beside, or in place of, every figure of the card."""
    for yardstick in dict.fromkeys(m.yardstick for m in reversed(measurements)):
        group = [m for m in measurements if m.yardstick == yardstick]
        covered = {m.variant for m in group}
        rest = [v.quality for v in card.variants if v.quality and v.name not in covered]
        if all(yardstick in quality.source for quality in rest):
            return group
    return []


def missing(card: ModelCard, measurement: Measurement, measured: Iterable[str]) -> list[str]:
    """Variants of the card whose own figures come from another yardstick and were not measured on this one."""
    covered = set(measured)
    return [
        v.name
        for v in card.variants
        if v.quality and v.name not in covered and measurement.yardstick not in v.quality.source
    ]
