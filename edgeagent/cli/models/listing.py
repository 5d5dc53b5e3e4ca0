"""`edgeagent models list` and `show`: what models there are, what is here, and what fits this machine."""

from collections.abc import Mapping

import click

from edgeagent import daemon
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts
from edgeagent.core.cards import ModelCard, QuantizedSource, Variant
from edgeagent.core.errors import EdgeAgentError, ModelFileError
from edgeagent.model.select import Row, judge, select
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.settings import Settings, load_settings


@models.command("list")
@as_json_option
def list_models(as_json: bool) -> None:
    """Every variant of every card: its size, whether it is here, whether it fits, its quality, the choice."""
    settings = load_settings()
    store = daemon.model_store(settings)
    facts = [_model_facts(settings, store, card) for card in store.registry.cards]
    print_facts({"folder": str(store.folder), "models": facts}, as_json, _table(facts))


@models.command("show")
@click.argument("model_id", metavar="ID")
@as_json_option
def show_model(model_id: str, as_json: bool) -> None:
    """A model's card, and its variants on this machine."""
    settings = load_settings()
    store = daemon.model_store(settings)
    card = store.registry.card(model_id)
    facts = card.model_dump(mode="json", exclude={"variants"}) | _model_facts(settings, store, card)
    lines = [f"{key}: {value}" for key, value in facts.items() if key != "variants" and value not in ("", None)]
    print_facts(facts, as_json, "\n".join([*lines, _table([facts])]))


def _model_facts(settings: Settings, store: ModelStore, card: ModelCard) -> JsonObject:
    found = {variant.name: _find(store, card, variant) for variant in card.variants}
    sizes = {v.name: size for v in card.variants if (size := _usable_bytes(v, found[v.name])) is not None}
    rows, chosen, why = _judge(settings, card, sizes)
    variants = [_variant_facts(v, found[v.name], rows.get(v.name), is_chosen=v.name == chosen) for v in card.variants]
    return {
        "id": card.id,
        "name": card.name,
        "kind": card.kind,
        "licence": card.licence,
        "variants": variants,
        "why": why,
    }


def _find(store: ModelStore, card: ModelCard, variant: Variant) -> StoredVariant | str | None:
    """The stored variant; what is wrong with its file; or None when it is not here."""
    try:
        return store.find(card.id, variant.name)
    except ModelFileError as error:
        return str(error)


def _usable_bytes(variant: Variant, found: StoredVariant | str | None) -> int | None:
    """Size of a variant that is here or can be fetched; one that must be made first is no choice yet."""
    if isinstance(found, StoredVariant):
        return found.bytes
    return None if isinstance(variant.source, QuantizedSource) else variant.bytes


def _judge(settings: Settings, card: ModelCard, sizes: Mapping[str, int]) -> tuple[dict[str, Row], str | None, str]:
    if card.architecture is None:
        return {}, card.variants[0].name, "the only variant"
    rates, limits = daemon.measured_rates(settings, card.id), daemon.selection_limits(settings)
    rows = {row.variant: row for row in judge(card, sizes, rates, limits)}
    try:
        selection = select(card, sizes, rates, limits)
    except EdgeAgentError as error:
        return rows, None, str(error)
    return rows, selection.variant, selection.why


def _variant_facts(
    variant: Variant, found: StoredVariant | str | None, row: Row | None, *, is_chosen: bool
) -> JsonObject:
    stored = found if isinstance(found, StoredVariant) else None
    return {
        "name": variant.name,
        "file": variant.file,
        "source": variant.source.kind,
        "bytes": stored.bytes if stored else variant.bytes,
        "sha256": stored.sha256 if stored else variant.sha256,
        "on_disk": stored is not None,
        "problem": found if isinstance(found, str) else None,
        "perplexity": variant.quality.perplexity if variant.quality else None,
        "quality_source": variant.quality.source if variant.quality else None,
        "memory_bytes": row.memory_bytes if row else None,
        "ttft_s": row.ttft_s if row else None,
        "ttft_estimated": row.estimated if row else None,
        "fits": row.fits_memory if row else None,
        "rejected": row.rejected if row else None,
        "chosen": is_chosen,
    }


def _table(facts: list[JsonObject]) -> str:
    lines = [f"  {'variant':<34}{'MB':>8}  {'on disk':<9}{'fits':<6}{'perplexity':<10}"]
    for model in facts:
        rows = model["variants"]
        assert isinstance(rows, list)
        lines += [_line(str(model["id"]), row) for row in rows]
    return "\n".join(lines)


def _line(model_id: str, row: Mapping[str, object]) -> str:
    size = f"{row['bytes'] / 1e6:.1f}" if isinstance(row["bytes"], int) else "-"
    here = "bad" if row["problem"] else "yes" if row["on_disk"] else "no"
    fits = {True: "yes", False: "no"}.get(row["fits"] is True) if row["fits"] is not None else "-"
    mark = "*" if row["chosen"] else " "
    name = f"{model_id} {row['name']}"
    return f"{mark} {name:<34}{size:>8}  {here:<9}{fits:<6}{row['perplexity'] or '-':<10}"
