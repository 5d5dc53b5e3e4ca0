"""The model cards of a folder, read and checked once: what models there are, before any is downloaded."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from edgeagent.core.cards import AdapterFile, MadeSource, ModelCard, Variant
from edgeagent.core.errors import ConfigError, ModelNotFoundError
from edgeagent.model.consistency import check_shape, check_variant


class Registry:
    """Cards by id. Lookups raise ModelNotFoundError with the nearest name."""

    def __init__(self, cards: Iterable[ModelCard]) -> None:
        self._cards: dict[str, ModelCard] = {}
        self._amended: dict[str, ModelCard] = {}
        for card in cards:
            if card.id in self._cards:
                raise ConfigError(f"model card '{card.id}' exists twice; remove one")
            self._cards[card.id] = card

    @classmethod
    def load(cls, folder: Path) -> "Registry":
        """Every `<id>.toml` in `folder`. Raises ConfigError, naming the file and the key at fault."""
        paths = sorted(folder.glob("*.toml"))
        if not paths:
            raise ConfigError(f"no model card in {folder}; reinstall the package")
        found = cls(_read_card(path) for path in paths)
        for card in found.cards:
            if card.draft is not None and card.draft not in found._cards:
                raise ConfigError(
                    f"model card {folder / card.id}.toml: key 'draft': no card '{card.draft}'; correct it"
                )
        return found

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple((self._cards | self._amended).values())

    def amend(self, card: ModelCard) -> None:
        """Show `card`, which has local facts, in place of the shipped one of the same id (see `overlay`)."""
        self._amended[self.shipped(card.id).id] = card

    def shipped(self, model_id: str) -> ModelCard:
        """The card as it was read, without local facts."""
        self.card(model_id)
        return self._cards[model_id]

    def card(self, model_id: str) -> ModelCard:
        if model_id in self._cards:
            return self._amended.get(model_id, self._cards[model_id])
        hint = _nearest(model_id, list(self._cards))
        raise ModelNotFoundError(f"no model '{model_id}'; {hint}")

    def variant(self, model_id: str, name: str | None) -> tuple[ModelCard, Variant]:
        """The card and its variant `name`, or its first one for None."""
        card = self.card(model_id)
        if name is None:
            return card, card.variants[0]
        if (variant := card.variant(name)) is not None:
            return card, variant
        hint = _nearest(name, [v.name for v in card.variants])
        raise ModelNotFoundError(f"model '{model_id}' has no variant '{name}'; {hint}")

    def adapter(self, model_id: str, name: str) -> tuple[ModelCard, AdapterFile]:
        """The card and its adapter `name`; ModelNotFoundError tells those it has."""
        card = self.card(model_id)
        if found := next((a for a in card.adapters if a.name == name), None):
            return card, found
        known = ", ".join(a.name for a in card.adapters)
        raise ModelNotFoundError(f"model '{model_id}' has no adapter '{name}'; its card lists {known or 'none'}")


def _nearest(name: str, known: list[str]) -> str:
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    return f"did you mean '{folded[close[0]]}'?" if close else f"known are {', '.join(known)}"


def _read_card(path: Path) -> ModelCard:
    try:
        card = ModelCard.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        _check_card(card, path.stem)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"model card {path}: key '{key}': {first['msg']}; correct it") from None
    except (OSError, ValueError) as error:  # not readable, not UTF-8, not TOML, not consistent
        raise ConfigError(f"model card {path}: {error}; correct it") from None
    return card


def _check_card(card: ModelCard, stem: str) -> None:
    """What holds between keys. Raises ValueError."""
    if card.id != stem:
        raise ValueError(f"key 'id': '{card.id}' is not the file's name '{stem}'")
    _check_unique("variants.name", [v.name for v in card.variants])
    _check_unique("variants.file", [v.file for v in (*card.variants, *card.adapters)])
    _check_unique("adapters.name", [a.name for a in card.adapters])
    if (card.kind == "embedding") != (card.dimensions is not None):
        raise ValueError("key 'dimensions': belongs to kind 'embedding', and only there")
    if (card.kind in ("chat", "base")) != (card.architecture is not None):
        raise ValueError("key 'architecture': belongs to the kinds 'chat' and 'base', and only there")
    if card.architecture is not None:
        check_shape(card.architecture, card.parameters)
    for number, variant in enumerate(card.variants):
        check_variant(card, variant, f"variants.{number}")
    for number, adapter in enumerate(card.adapters):
        _check_adapter(card, adapter, f"adapters.{number}")


def _check_adapter(card: ModelCard, adapter: AdapterFile, key: str) -> None:
    if card.architecture is None:
        raise ValueError(f"key '{key}': belongs to the kinds 'chat' and 'base', and only there")
    if isinstance(adapter.source, MadeSource) or not adapter.file.endswith(".gguf"):
        raise ValueError(f"key '{key}': an adapter is a fetched .gguf file")
    if unknown := [name for name in adapter.variants if card.variant(name) is None]:
        raise ValueError(f"key '{key}.variants': the card has no variant '{unknown[0]}'")


def _check_unique(key: str, values: list[str]) -> None:
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise ValueError(f"key '{key}': '{twice}' occurs twice")
