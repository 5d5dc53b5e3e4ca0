"""`edgeagent models list`, `show` and `recommend`: what there is, what fits this machine, how fast it will be."""

from collections.abc import Mapping
from dataclasses import dataclass

import click

from edgeagent import parts
from edgeagent.cli.models.group import JsonObject, as_json_option, models, print_facts
from edgeagent.cli.models.table import LEGEND, listing_lines, pareto_lines
from edgeagent.core.cards import MadeSource, ModelCard, Variant
from edgeagent.core.errors import EdgeAgentError, ModelFileError, OutOfMemoryError
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.recommend import recommend
from edgeagent.model.select import Row, Sizes, judge, select
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.settings import load_settings

Found = Mapping[str, StoredVariant | str | None]
"""By variant: the stored one; what is wrong with its file; or None when it is not here."""


@dataclass(frozen=True, slots=True)
class Desk:
    """All that judging cards takes. Nothing is measured for it."""

    store: ModelStore
    machine: Machine
    limits: Limits


@models.command("list")
@click.option("--all", "with_all", is_flag=True, help="Show the variants, too, that are not here and do not fit.")
@as_json_option
def list_models(with_all: bool, as_json: bool) -> None:
    """Every variant for this machine: size, whether it is here and fits, speed, quality; * marks the choice."""
    desk = _desk()
    facts = [_model_facts(desk, card) for card in desk.store.registry.cards]
    text = "\n".join([*listing_lines(facts, with_all=with_all), "", LEGEND, *_advice(desk)])
    print_facts({"folder": str(desk.store.folder), "models": facts}, as_json, text)


@models.command("show")
@click.argument("model_id", metavar="ID")
@as_json_option
def show_model(model_id: str, as_json: bool) -> None:
    """A model's card, its variants on this machine, which of them are worth having, and why one is chosen."""
    desk = _desk()
    card = desk.store.registry.card(model_id)
    facts = card.model_dump(mode="json", exclude={"variants"}) | _model_facts(desk, card)
    lines = [f"{key}: {value}" for key, value in facts.items() if key not in {"variants", "why"} and value]
    text = "\n".join([*lines, "", *pareto_lines(facts), "", LEGEND, *_advice(desk), "", str(facts["why"])])
    print_facts(facts, as_json, text)


@models.command("recommend")
@as_json_option
def recommend_model(as_json: bool) -> None:
    """The chat model and variant that suit this machine best, before anything is downloaded."""
    desk = _desk()
    found = recommend(
        desk.store.registry.cards, lambda card: _choosable(card, _find_all(desk, card)), desk.machine, desk.limits
    )
    if found is None:
        raise OutOfMemoryError("no chat model fits this machine's memory; free some or set models.memory_limit_bytes")
    card, choice = found.card, found.selection.choice
    is_here = isinstance(_find(desk.store, card, choice.variant), StoredVariant)
    command = f"edgeagent models pull {card.id} --variant {choice.variant}"
    facts = {
        "id": card.id,
        "variant": choice.variant,
        "on_disk": is_here,
        "context_tokens": choice.context_tokens,
        "kv_type": choice.kv_type,
        "memory_bytes": choice.memory_bytes,
        "why": found.why,
        "others": found.others,
    }
    lines = [f"{card.id} {choice.variant}", found.why, "it is here" if is_here else f"get it: {command}", ""]
    lines += [f"  {name}: {reason}" for name, reason in found.others.items()]
    print_facts(facts, as_json, "\n".join(lines))


def _desk() -> Desk:
    settings = load_settings()
    profile = parts.known_profile(settings)
    return Desk(
        parts.model_store(settings), parts.selection_machine(settings, profile), parts.selection_limits(settings)
    )


def _advice(desk: Desk) -> list[str]:
    if desk.machine.kernels or desk.machine.rates or desk.machine.sketch.read_bytes_s:
        return []
    return ["this machine was never measured; run 'edgeagent profile' to see speeds"]


def _model_facts(desk: Desk, card: ModelCard) -> JsonObject:
    found = _find_all(desk, card)
    rows: Mapping[str, Row] = {}
    chosen, why = card.variants[0].name, "the only variant"
    if card.architecture is not None:
        sizes = {variant.name: _bytes(variant, found) for variant in card.whole_variants}
        rows = {row.variant: row for row in judge(card, sizes, desk.machine, desk.limits)}
        chosen, why = _chosen(desk, card, found)
    return {
        "id": card.id,
        "name": card.name,
        "kind": card.kind,
        "licence": card.licence,
        "variants": [
            _variant_facts(v, found[v.name], rows.get(v.name), is_chosen=v.name == chosen) for v in card.variants
        ],
        "why": why,
    }


def _chosen(desk: Desk, card: ModelCard, found: Found) -> tuple[str, str]:
    try:
        selection = select(card, _choosable(card, found), desk.machine, desk.limits)
    except EdgeAgentError as error:
        return "", str(error)
    return selection.variant, selection.why


def _find_all(desk: Desk, card: ModelCard) -> Found:
    return {variant.name: _find(desk.store, card, variant.name) for variant in card.variants}


def _find(store: ModelStore, card: ModelCard, variant: str) -> StoredVariant | str | None:
    try:
        return store.find(card.id, variant)
    except ModelFileError as error:
        return str(error)


def _choosable(card: ModelCard, found: Found) -> Sizes:
    """What is here or can be fetched; a variant that must be made first is no choice yet."""
    return {
        v.name: _bytes(v, found)
        for v in card.whole_variants
        if isinstance(found[v.name], StoredVariant) or not isinstance(v.source, MadeSource)
    }


def _bytes(variant: Variant, found: Found) -> int | None:
    stored = found[variant.name]
    return stored.bytes if isinstance(stored, StoredVariant) else variant.bytes


def _variant_facts(
    variant: Variant, found: StoredVariant | str | None, row: Row | None, *, is_chosen: bool
) -> JsonObject:
    stored = found if isinstance(found, StoredVariant) else None
    return {
        "name": variant.name,
        "file": variant.file,
        "source": variant.source.kind,
        "bytes": stored.bytes if stored else variant.bytes or (row.bytes if row else None),
        "bytes_predicted": row.is_size_predicted if row else False,
        "sha256": stored.sha256 if stored else variant.sha256,
        "on_disk": stored is not None,
        "problem": found if isinstance(found, str) else None,
        "perplexity": variant.quality.perplexity if variant.quality else None,
        "quality_source": variant.quality.source if variant.quality else None,
        "chosen": is_chosen,
        **(_judgement(row) if row else dict.fromkeys(JUDGED)),
    }


JUDGED = (
    "quality_rank", "memory_bytes", "context_tokens", "kv_type", "threads", "placement", "prefill_tok_s",
    "decode_tok_s", "ttft_s", "tpot_s", "speed", "energy_j", "fits", "pareto", "faults", "rejected",
)  # fmt: skip
"""Keys of what a row says; null for a model that is no decoder."""


def _judgement(row: Row) -> JsonObject:
    choice, speed = row.choice, row.speed
    return {
        "quality_rank": row.rank,
        "memory_bytes": choice.memory_bytes if choice else None,
        "context_tokens": choice.context_tokens if choice else None,
        "kv_type": choice.kv_type if choice else None,
        "threads": choice.threads if choice else None,
        "placement": choice.option.placement.text if choice else None,
        "prefill_tok_s": speed.prefill_tok_s if speed else None,
        "decode_tok_s": speed.decode_tok_s if speed else None,
        "ttft_s": speed.ttft_s if speed else None,
        "tpot_s": speed.tpot_s if speed else None,
        "speed": speed.basis if speed else None,
        "energy_j": row.energy_j,
        "fits": row.fits_memory,
        "pareto": row.is_on_front,
        "faults": list(row.faults),
        "rejected": row.rejected,
    }
